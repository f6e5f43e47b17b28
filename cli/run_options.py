"""The options that several commands of `heads` share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from heads.judging.aggregation import How
    from heads.running.prediction_file import ByParent

FOLDER = click.Path(path_type=Path)
DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)
FEWEST_RESAMPLES = 100
KINDS = ("lr", "ridge", "quantile", "mlp", "lightgbm", "knn", "prototype")
METRICS = (
    "auprc", "auroc", "mcc", "f1", "acc", "balanced_acc", "precision", "recall", "brier", "log_loss", "ece",
    "pearson", "spearman", "r2", "rmse", "mae", "pinball",
)  # fmt: skip


def _resamples(context: click.Context, parameter: click.Parameter, value: int) -> int:
    if 0 < value < FEWEST_RESAMPLES:
        raise click.BadParameter(f"{value} resamples make no 95 % interval; give {FEWEST_RESAMPLES} or more, or 0")
    return value


BOOTSTRAP = click.option(
    "--bootstrap",
    type=click.IntRange(min=0),
    callback=_resamples,
    default=1000,
    show_default=True,
    metavar="N",
    help=f"Resamples for the 95 % intervals, {FEWEST_RESAMPLES} or more; 0 for none.",
)
SEED = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="For drawn splits, heads that start at random, and the bootstrap.",
)
FEATURES_HELP = "A store of embeddings; given several times, the rows of all. STORE:label=1 gives its rows a column."
FEATURES = click.option("--features", multiple=True, required=True, metavar="STORE[:COL=VALUE]", help=FEATURES_HELP)
LABELS = click.option(
    "--labels", type=FOLDER, metavar="FILE", help="A table whose columns are joined by id, in place of the store's own."
)
STRATA = click.option(
    "--strata",
    metavar="COL[:N,N,...]",
    help="Report metrics by the values of this column, or by bins of a numeric one, such as length:200,500.",
)
AGGREGATE = click.option(
    "--aggregate",
    type=click.Choice(["mean", "max", "median", "vote"]),
    help="Put the windows of a parent together: mean or maximum of their probabilities or values, median of values, or "
    "the share of windows that are called so.",
)
BY = click.option(
    "--by",
    metavar="COL",
    help="With --aggregate: the column that names the parents.  [default: parent, else the groups]",
)
DETECT = click.option(
    "--detect",
    multiple=True,
    metavar="VALUE|abs:VALUE",
    help="Of a measured quantity: count the rows predicted at this value or more (abs: either way; below: or less), and "
    "how many of these pass it in truth.  May be given several times.",
)
DETECT_BY = click.option(
    "--detect-by", metavar="COL", help="Count them by the values of this column, such as a kind of variant, instead."
)
STRICT = click.option("--strict", is_flag=True, help="Refuse rows that are far from those that trained the head.")


def by_parent(aggregate: How | None, by: str | None) -> ByParent | None:
    """How windows are put together, as --aggregate and --by say."""
    from heads.running.prediction_file import ByParent

    if aggregate is None and by is not None:
        raise click.UsageError("--by names the parents of windows: say how to put these together with --aggregate")
    return None if aggregate is None else ByParent(aggregate, by)


def names_in(text: str | None) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def nearness(given: dict[str, Any]) -> float | None:
    """The cosine of near-duplicates that is asked for, None for none; letters of unlike sequences may well be alike."""
    from heads.splitting.certificate import THRESHOLD

    usual = None if given["per_position"] else THRESHOLD
    return usual if given["near"] is None else given["near"] or None
