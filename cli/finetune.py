"""``heads finetune``: an encoder trained together with its head."""

from __future__ import annotations

import re
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.head_options import OPTIONS, class_weights
from cli.input_options import INPUT_NAMES, input_options
from cli.run_options import names_in, nearness
from cli.training_tables import echo_tables

if TYPE_CHECKING:
    from embedcache.input_options import InputOptions
    from heads.finetune.options import FinetuneOptions

FOLDER = click.Path(path_type=Path)
SHARE = click.FloatRange(0, 1, max_open=True)
SHARED = (
    "label", "per_position", "task", "split", "group", "strata", "weight", "class_weight", "pos_weight", "select",
    "threshold", "threshold_by_stratum", "calibration", "prior", "conformal", "conformal_by_class", "positive", "near",
    "strict", "output", "overwrite", "memory", "seed", "split_seed", "bootstrap", "device",
)  # fmt: skip
"""Options of `heads train` that mean the same here."""
OF_THE_HEAD = (
    "head_hidden", "head_dropout", "head_epochs", "head_batch", "head_schedule", "head_warmup", "head_patience",
    "head_stop_on", "head_focal", "head_label_smoothing", "head_loss", "head_quantiles", "head_sampler", "head_mixup",
    "head_mixup_probability",
)  # fmt: skip
"""Those of its ``--head mlp``; epochs, batch, schedule and patience are the encoder's too."""


HELP = {
    "head_epochs": "Most epochs.  [5; frozen 20]",
    "per_position": "Learn a label for each letter of a sequence: the label column holds a character for each (- for none), "
    "values with commas between them, or a list.",
    "head_batch": "Rows of a batch, with --per-position whole records.  [32; frozen 256 rows]",
    "head_patience": "Stop after so many epochs without a better --select on the rows of --stop-on; 0 for never.  "
    "[3; frozen 5]",
    "head_stop_on": "Rows whose --select stops the training and chooses its epoch: val, train, or another value of the "
    "split column, whose rows do nothing else.  [val]",
    "head_schedule": "How the learning rates change.  [onecycle]",
    "head_warmup": "Share of all steps in which they rise.  [0.1]",
    "head_dropout": "Share of the head's hidden values dropped in training.  [0.1]",
    "head_hidden": "Widths of the head's hidden layers.  [512]",
    "class_weight": "What the loss of a class is multiplied by.  [none]",
    "output": "Run directory; OUTPUT.training beside it holds the checkpoints.  [runs/STORE-finetune-MODE]",
}
"""What shared options are said to be where the words of `heads train` do not fit."""
ONE_VALUE = {"head_dropout": "SHARE", "class_weight": "none|balanced|CLASS=W,..."}
"""What is given to options that `heads train` takes several values of."""


def finetune_command(train: click.Command) -> click.Command:
    """Make the command out of its own options and those that it shares with `heads train`."""
    own: Any = input_options(_finetune)
    for option in reversed(_OPTIONS):
        own = option(own)
    command = click.command("finetune")(own)
    for name in (*OF_THE_HEAD, *SHARED):
        shared = copy(next(option for option in train.params if option.name == name))
        assert isinstance(shared, click.Option)
        shared.help = HELP.get(name, re.sub(r"^\([a-z, ]*mlp[a-z, ]*\) ", "", str(shared.help)))
        shared.metavar = ONE_VALUE.get(name, shared.metavar)
        command.params.append(shared)
    return command


_OPTIONS = (
    click.option("--features", type=FOLDER, metavar="STORE", help="A store that keeps its sequences, of any encoder."),
    click.option("--store", type=FOLDER, metavar="DIR", help="With --input: where its records and their embeddings are "
                 "kept.  [default: OUTPUT.zarr]"),
    click.option("--model", metavar="NAME|DIR|RUN", help="Encoder: an alias, a hub id, a folder, or a run of `heads "
                 "finetune`, whose head is gone on with too.  [default: that of the store]"),
    click.option("--mode", type=click.Choice(["frozen", "top", "full"]), default="top", show_default=True,
                 help="What is trained beside the head: nothing, the last --top-layers, or the whole encoder."),
    click.option("--top-layers", type=click.IntRange(1), default=4, show_default=True, metavar="K",
                 help="Layers that --mode top trains."),
    click.option("--pool", help="With --model: poolings, as in `embedcache extract`.  [mean; none with --per-position]"),
    click.option("--layer", help="With --model: the layers, as there.  [default: the one of the encoder's authors]"),
    click.option("--overlong", type=click.Choice(["window", "truncate", "skip"]), help="With --model: as there."),
    click.option("--lr", type=click.FloatRange(0, min_open=True), help="Peak learning rate of the encoder's last layer.  "
                 "[top 5e-5, full 2e-5, with --lora 2e-4]"),
    click.option("--head-lr", type=click.FloatRange(0, min_open=True), help="Peak learning rate of the head.  [1e-3]"),
    click.option("--layer-lr-decay", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
                 help="Each layer learns so many times as fast as the one above it."),
    click.option("--weight-decay", type=click.FloatRange(0), default=0.01, show_default=True,
                 help="Of matrices; norms and biases have none."),
    click.option("--batch-tokens", type=click.IntRange(1), metavar="TOKENS", help="Batches of so many tokens instead of "
                 "--batch rows; nothing is padded either way."),
    click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, metavar="N",
                 help="Batches of one step."),
    click.option("--clip", type=click.FloatRange(0), metavar="NORM", help="Largest norm of the gradients of a step; 0 for "
                 "any.  [1; frozen 0]"),
    click.option("--mask", type=SHARE, default=0.0, show_default=True, metavar="SHARE", help="Tokens hidden in training."),
    click.option("--hidden-dropout", type=SHARE, metavar="SHARE", help="Of the encoder.  [as in its config.json]"),
    click.option("--attention-dropout", type=SHARE, metavar="SHARE", help="Of its attention weights.  [likewise]"),
    click.option("--recompute", is_flag=True, help="Keep no values inside layers for the backward pass: less memory, a "
                 "third more time."),
    click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto",
                 show_default=True, help="Of the encoder's products; auto is bfloat16 on a GPU, float32 on a CPU."),
    click.option("--lora", type=click.IntRange(1), metavar="RANK", help="Train low-rank adapters instead of the weights."),
    click.option("--lora-alpha", type=click.FloatRange(0, min_open=True), help="Their scale times the rank.  [2 x rank]"),
    click.option("--lora-dropout", type=SHARE, default=0.0, show_default=True, metavar="SHARE", help="Before them."),
    click.option("--merge-adapters", is_flag=True, help="Add them to the weights at the end, not keep them apart."),
    click.option("--cache/--no-cache", default=None, help="Compute the states below --top-layers once, and keep them "
                 "until the run is finished.  [cached, but not with --mask]"),
    click.option("--cache-dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True,
                 help="Type of those states."),
    click.option("--init-head", "start", type=FOLDER, metavar="RUN", help="Go on from the head of this run, of `heads train "
                 "--head mlp` or of a fine-tuning; but in a fold that tests rows which it has seen, from a new head."),
    click.option("--reinit-head", is_flag=True, help="With --model RUN: begin with a new head."),
    click.option("--save-steps", type=click.IntRange(0), default=0, show_default=True, metavar="N",
                 help="Also write a checkpoint every N steps, not only after each epoch."),
    click.option("--report-to", default="none", show_default=True, metavar="TRACKER,...",
                 help="none, tensorboard, mlflow, wandb; they write into RUN/logs and ask no server."),
    click.option("--restart", is_flag=True, help="Forget the checkpoints of a training that was stopped."),
    click.option("--keep-checkpoints", is_flag=True, help="Keep OUTPUT.training, with checkpoints and cached states."),
    click.option("--log", type=FOLDER, metavar="FILE", help="Also append the run to this log (see `heads log`)."),
    click.option("--random-weights", is_flag=True, help="The real architecture with random weights, for benchmarks."),
)  # fmt: skip


def _finetune(**given: Any) -> None:
    """Train an encoder together with its head, on the rows, splits and metrics of `heads train`.

    Stopped, by Ctrl-C or by a kill, the same command goes on from the last checkpoint. Several GPUs: torchrun
    --nproc-per-node N $(which heads) finetune ...

    Of folds (--split kfold:5, nested:5x3, leave-out:COL) each trains an encoder and a head of its own from the same start;
    RUN judges every row by those that have not seen it, and RUN/fold-1 ... are their runs.

    \b
    heads finetune --features reads.zarr --mode top --top-layers 4
    heads finetune --model nt500m --input reads.fa.gz:label=1 host.fa.gz:label=0 --mode full --lora 8
    """
    from tqdm import tqdm

    from embedcache.errors import Interrupted
    from heads.data.feature_stores import names_of_labels
    from heads.finetune.finetune import finetune
    from heads.running.runs import fold_runs

    source = _source(given)
    with tqdm(total=0, desc="fine-tuning", unit="step", disable=None, leave=False) as bar:

        def told(step: int, steps: int, text: str) -> None:
            bar.total, bar.n = steps, step
            bar.refresh()
            if text:
                bar.write(text)

        try:
            done = finetune(
                source,
                _shared(given),
                _options(given),
                _choice(given),
                bar.write,
                told,
                per_position=names_of_labels(given["label"] or "label") if given["per_position"] else None,
                kept=given["store"],
                output=given["output"],
                overwrite=given["overwrite"],
                restart=given["restart"],
                keep=given["keep_checkpoints"],
            )
        except KeyboardInterrupt:
            raise Interrupted(
                "stopped by Ctrl-C: run the same command again to go on from the last checkpoint"
            ) from None
    if done is None:
        return
    if given["log"] is not None:
        from heads.running.training_log import append_to_log

        append_to_log(done.outdir, given["log"])
    echo_tables(done)
    one = done.outdir
    if done.folds:
        one, *_ = runs = fold_runs(done.outdir)
    click.echo(f"\nrun directory: {done.outdir} (report.html, metrics.json, predictions.parquet, model/)")
    if done.folds:
        click.echo(f"of one fold each: {', '.join(folder.name for folder in runs)}")
    averaged = "   # the mean of all folds" if done.folds else ""
    click.echo(f"next: heads predict {done.outdir} --input FILE -o predictions.parquet{averaged}")
    if given["mode"] != "frozen":
        pool = " --pool none" if given["per_position"] else ""
        click.echo(f"      embedcache extract --model {one}{pool} --input FILE --output STORE")


def _source(given: dict[str, Any]) -> Path | InputOptions:
    from embedcache.input_options import InputOptions

    given["inputs"] = (*given["inputs"], *given.pop("more_inputs"))
    records = InputOptions(**{name: given.pop(name) for name in INPUT_NAMES if name in given})
    features: Path | None = given.pop("features")
    if (features is None) == (not records.inputs and records.genome is None):
        raise click.UsageError(
            "name the rows: --features STORE, or --input FILE (or --genome and --sites) with --model"
        )
    if features is not None:
        return features
    if given["model"] is None:
        raise click.UsageError("--input has no encoder of its own: name one with --model")
    return records


def _options(given: dict[str, Any]) -> FinetuneOptions:
    """How encoder and head are trained."""
    from heads.finetune.options import LoraOptions, usual

    rank = given["lora"]
    base = usual(given["mode"], rank is not None)
    head: dict[str, Any] = {
        option.field: value for option in OPTIONS if option.field and (value := given.get(option.name)) is not None
    }
    if given["head_lr"] is not None:
        head["lr"] = (given["head_lr"],)
    weights = class_weights(given["class_weight"], given["pos_weight"])
    if weights is not None:
        if len(weights) > 1:
            raise click.UsageError("heads finetune takes one --class-weight: none, balanced, or CLASS=W,...")
        head["class_weight"] = weights[0]
    if rank is None and (given["lora_alpha"] is not None or given["lora_dropout"] or given["merge_adapters"]):
        raise click.UsageError("--lora-alpha, --lora-dropout and --merge-adapters are for adapters: give --lora RANK")
    lora = None
    if rank is not None:
        lora = LoraOptions(rank, given["lora_alpha"] or 2.0 * rank, given["lora_dropout"], given["merge_adapters"])
    names = ("lr", "clip", "hidden_dropout", "attention_dropout", "batch_tokens", "cache")
    optional = {name: given[name] for name in names if given[name] is not None}
    return replace(
        base,
        **optional,
        head=replace(base.head, weight_decay=(given["weight_decay"],), **head),
        top_layers=given["top_layers"],
        layer_lr_decay=given["layer_lr_decay"],
        weight_decay=given["weight_decay"],
        accumulate=given["accumulate"],
        mask=given["mask"],
        recompute=given["recompute"],
        precision=given["precision"],
        lora=lora,
        cache_dtype=given["cache_dtype"],
        save_steps=given["save_steps"],
        report_to=tuple(name for name in given["report_to"].split(",") if name != "none"),
    )


def _choice(given: dict[str, Any]) -> Any:
    """Which encoder is trained."""
    from heads.finetune.ground import EncoderChoice

    return EncoderChoice(
        name=given["model"],
        poolings=names_in(given["pool"] or ("none" if given["per_position"] else "mean")),
        layers=tuple(word.strip() for word in given["layer"].split(",")) if given["layer"] else None,
        overlong=given["overlong"],
        precision=given["precision"],
        random_weights=given["random_weights"],
        seed=given["seed"],
        reinit_head=given["reinit_head"],
    )


def _shared(given: dict[str, Any]) -> Any:
    """What `heads train` would be asked for the same."""
    from heads.deciding.decisions import DecisionOptions
    from heads.deciding.prior import parse_prior
    from heads.judging.results import Judging
    from heads.perceptron.mlp_options import MLPOptions
    from heads.running.train import TrainOptions
    from heads.splitting.task import Columns

    if given["threshold_by_stratum"] and given["strata"] is None:
        raise click.UsageError("--threshold-by-stratum needs the strata: name their column with --strata")
    decisions = DecisionOptions(
        calibration=given["calibration"],
        prior=parse_prior(given["prior"]),
        threshold=given["threshold"],
        by_stratum=given["threshold_by_stratum"],
        alpha=given["conformal"],
        by_class=given["conformal_by_class"],
    )
    return TrainOptions(
        head=MLPOptions(),
        kind="mlp",
        columns=Columns(given["label"], given["split"], given["group"], given["strata"], given["weight"]),
        task=given["task"],
        positive=given["positive"],
        pos_weight=given["pos_weight"],
        judging=Judging(decisions, given["bootstrap"], given["seed"]),
        select=given["select"],
        stop_on=given["head_stop_on"],
        start=given["start"],
        start_flag="--init-head",
        near=nearness(given),
        strict=given["strict"],
        seed=given["seed"],
        split_seed=given["split_seed"],
        device=given["device"],
        memory_bytes=int(given["memory"] * 2**30),
    )
