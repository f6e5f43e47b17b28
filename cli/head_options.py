"""The options of each kind of head on the command line: declared once, read into the kind's own dataclass.

An option that the chosen kind does not know is refused, and so is one that was given to no purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

NUMBERS = "N,N,..."

# click 8.1 to 8.3 has a ParamType that takes no parameter, later ones are typed with one.
if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType


class Numbers(ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def __init__(self, least: float | None = None, *, whole: bool = False, above: bool = False) -> None:
        self.least, self.whole, self.above = least, whole, above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse; fails naming what is wrong."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(dict.fromkeys((int if self.whole else float)(part) for part in value.split(",")))
        except ValueError:
            self.fail(f"{value!r} is not a list of {'whole ' if self.whole else ''}numbers such as {self._example()}")
        for number in numbers:
            low = self.least is not None and (number <= self.least if self.above else number < self.least)
            if low or not abs(number) < float("inf"):
                bound = f"above {self.least:g}" if self.above else f"{self.least:g} or more"
                self.fail(f"{number:g} is not possible here: numbers must be {bound}")
        return numbers

    def _example(self) -> str:
        return "128,512" if self.whole else "1e-3,0.1,1"


class Pairs(ParamType):
    """NAME=VALUE pairs with commas between them."""

    name = "pairs"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:
        """Parse; fails naming what is wrong."""
        if isinstance(value, dict):
            return value
        try:
            return {name.strip(): float(number) for name, number in (part.split("=") for part in value.split(","))}
        except ValueError:
            self.fail(f"{value!r} is not a list such as num_leaves=31,lambda_l2=1")


@dataclass(frozen=True)
class HeadOption:
    """One option: its flag, the field of the dataclass it fills, and the kinds that have it.

    One that fills no field (``""``) is of the training of these kinds.
    """

    flag: str
    field: str
    kinds: tuple[str, ...]
    help: str
    type: Any = str
    metavar: str | None = None

    @property
    def name(self) -> str:
        """The parameter of the command."""
        return "head_" + self.flag.removeprefix("--").replace("-", "_")


_NETWORK, _TREES, _NEIGHBOURS = ("mlp",), ("lightgbm",), ("knn",)
_POSITIVE = Numbers(0, above=True)

OPTIONS: tuple[HeadOption, ...] = (
    HeadOption("--c", "strengths", ("lr",), "Inverse strengths of the L2 penalty to try.  [8 values from 1e-4 to 10]",
               _POSITIVE, NUMBERS),
    HeadOption("--alpha", "alphas", ("ridge", "quantile"), "Strengths of the L2 penalty to try.", _POSITIVE, NUMBERS),
    HeadOption("--quantiles", "quantiles", ("quantile", "mlp", "lightgbm", "knn"),
               "Quantiles to learn instead of the mean, such as 0.1,0.5,0.9.", _POSITIVE, NUMBERS),
    HeadOption("--hidden", "hidden", _NETWORK, "Widths of the hidden layers.  [512]", Numbers(1, whole=True), NUMBERS),
    HeadOption("--dropout", "dropout", _NETWORK, "Shares of hidden values dropped in training, to try.  [0.1]",
               Numbers(0), NUMBERS),
    HeadOption("--lr", "lr", _NETWORK, "Learning rates to try.  [1e-3]", _POSITIVE, NUMBERS),
    HeadOption("--weight-decay", "weight_decay", _NETWORK, "Weight decays to try.", Numbers(0), NUMBERS),
    HeadOption("--epochs", "epochs", _NETWORK, "Most epochs.", click.IntRange(1), "N"),
    HeadOption("--batch", "batch_size", _NETWORK, "Rows of a batch.", click.IntRange(1), "ROWS"),
    HeadOption("--schedule", "schedule", _NETWORK, "How the learning rate changes.",
               click.Choice(["onecycle", "cosine", "linear", "constant"])),
    HeadOption("--warmup", "warmup", _NETWORK, "Share of all steps in which the learning rate rises.",
               click.FloatRange(0, 1, max_open=True), "SHARE"),
    HeadOption("--patience", "patience", (*_NETWORK, *_TREES),
               "Stop after so many epochs (rounds of trees) without a better --select on the rows of --stop-on; 0: never.",
               click.IntRange(0), "N"),
    HeadOption("--stop-on", "", (*_NETWORK, *_TREES),
               "Rows whose --select stops a fit and chooses its epoch or round: val, train, or another value of the split "
               "column, whose rows do nothing else. Validation rows still choose the head.  [val]", str, "val|train|VALUE"),
    HeadOption("--seeds", "seeds", (*_NETWORK, *_TREES), "Seeds to train with; of trees all are averaged.",
               Numbers(0, whole=True), NUMBERS),
    HeadOption("--ensemble", "ensemble", _NETWORK, "Average the heads of all --seeds, instead of taking the best of them.",
               bool),
    HeadOption("--focal", "focal_gamma", (*_NETWORK, *_TREES), "Gamma of the focal loss; 0 for cross-entropy.",
               click.FloatRange(0), "GAMMA"),
    HeadOption("--label-smoothing", "label_smoothing", _NETWORK, "Share of a label that is spread over all classes.",
               click.FloatRange(0, 1, max_open=True), "SHARE"),
    HeadOption("--loss", "loss", _NETWORK, "Loss of a measured quantity.",
               click.Choice(["mse", "huber", "pinball", "correlation"])),
    HeadOption("--sampler", "sampler", _NETWORK, "Draw every class, or every class of every group, equally often.",
               click.Choice(["none", "class", "class-group"])),
    HeadOption("--mixup", "mixup_alpha", _NETWORK, "Alpha of mixup on the features; 0 for none.", click.FloatRange(0),
               "ALPHA"),
    HeadOption("--mixup-probability", "mixup_probability", _NETWORK, "Share of batches that are mixed.",
               click.FloatRange(0, 1), "SHARE"),
    HeadOption("--freeze", "freeze", _NETWORK, "With --init: which layers stay as they are.",
               click.Choice(["none", "hidden"])),
    HeadOption("--layer-lr-decay", "layer_lr_decay", _NETWORK,
               "Each layer below the last learns so many times as fast as the one above it.",
               click.FloatRange(0, 1, min_open=True), "FACTOR"),
    HeadOption("--rounds", "rounds", _TREES, "Most trees.", click.IntRange(1), "N"),
    HeadOption("--learning-rate", "learning_rate", _TREES, "Shrinkage of a tree, to try.", _POSITIVE, NUMBERS),
    HeadOption("--leaves", "leaves", _TREES, "Leaves of a tree, to try.", Numbers(2, whole=True), NUMBERS),
    HeadOption("--feature-fraction", "feature_fraction", _TREES, "Share of the features that a tree sees, to try.",
               _POSITIVE, NUMBERS),
    HeadOption("--min-data", "min_data", _TREES, "Fewest rows of a leaf, to try.", Numbers(1, whole=True), NUMBERS),
    HeadOption("--max-bin", "max_bin", _TREES, "Bins of a feature.", click.IntRange(2, 255), "N"),
    HeadOption("--extra", "extra", _TREES, "LightGBM's own parameters, such as lambda_l2=1,max_depth=6.", Pairs(),
               "NAME=V,..."),
    HeadOption("--k", "k", _NEIGHBOURS, "Numbers of neighbours to try.", Numbers(1, whole=True), NUMBERS),
    HeadOption("--distance", "metric", _NEIGHBOURS, "Of the neighbours.", click.Choice(["cosine", "euclidean"])),
    HeadOption("--temperature", "temperature", _NEIGHBOURS, "Of votes by similarity, to try.", _POSITIVE, NUMBERS),
    HeadOption("--vote", "vote", _NEIGHBOURS, "How neighbours count.", click.Choice(["count", "similarity"])),
    HeadOption("--index", "index", _NEIGHBOURS, "Exact search, or one of faiss's approximate ones.",
               click.Choice(["exact", "ivf", "hnsw"])),
    HeadOption("--shrinkage", "shrinkages", ("prototype",), "Shrinkages of the covariance to try.", Numbers(0), NUMBERS),
)  # fmt: skip


def head_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add every kind's options to a command."""
    for option in reversed(OPTIONS):
        text = f"({', '.join(option.kinds)}) {option.help}"
        if option.type is bool:
            command = click.option(option.flag, option.name, is_flag=True, default=None, help=text)(command)
        else:
            command = click.option(option.flag, option.name, type=option.type, metavar=option.metavar, help=text)(
                command
            )
    return command


def check_kind(kind: str, given: dict[str, Any]) -> None:
    """Raise `click.UsageError` for an option of another kind, and for rows that are to stop what never stops."""
    for option in OPTIONS:
        if given[option.name] is not None and kind not in option.kinds:
            raise click.UsageError(
                f"{option.flag} is an option of --head {' and --head '.join(option.kinds)}, not of {kind}"
            )
    if kind in _TREES and given["head_stop_on"] is not None and given["head_patience"] == 0:
        raise click.UsageError(
            "--stop-on names the rows that stop the trees, and with --patience 0 none do: leave one out"
        )


def options_of(kind: str, options: type[Any], given: dict[str, Any], class_weights: Sequence[Any] | None) -> Any:
    """Take a kind's options out of the command's parameters; `given` loses all parameters of heads.

    Raises `click.UsageError` for class weights where the kind has none, and whatever the kind says of a value.
    """
    check_kind(kind, given)
    known = {field.name for field in fields(options)}
    values: dict[str, Any] = {}
    for option in OPTIONS:
        value = given.pop(option.name)
        if value is None or not option.field:
            continue
        values[option.field] = value
    if class_weights is not None:
        if "class_weights" in known:
            values["class_weights"] = tuple(class_weights)
        elif "class_weight" not in known:
            raise click.UsageError(f"--class-weight and --pos-weight mean nothing to --head {kind}")
        elif len(class_weights) > 1:
            raise click.UsageError(f"--head {kind} takes one --class-weight: none, balanced, or CLASS=W,...")
        else:
            values["class_weight"] = class_weights[0]
    return options(**values)


def class_weights(text: str | None, pos_weight: float | None) -> list[Any] | None:
    """The class weights to try; None where none was named."""
    if pos_weight is not None and text is not None:
        raise click.UsageError("--pos-weight is a class weight: give it or --class-weight, not both")
    if text is None:
        return None
    if text == "both":
        return ["none", "balanced"]
    if "=" not in text:
        if text not in ("none", "balanced"):
            raise click.BadParameter(f"{text}: give none, balanced, both, or CLASS=W,...", param_hint="--class-weight")
        return [text]
    try:
        pairs = [part.rpartition("=") for part in text.split(",")]
        return [{name.strip(): float(weight) for name, _, weight in pairs}]
    except ValueError:
        raise click.BadParameter(f"{text}: write CLASS=W,... with numbers", param_hint="--class-weight") from None
