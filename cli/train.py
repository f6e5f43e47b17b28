"""``heads train``: a head on a store that has labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.head_options import check_kind, class_weights, head_options, options_of
from cli.run_options import (
    BOOTSTRAP,
    DETECT,
    DETECT_BY,
    DEVICE,
    FEATURES,
    FOLDER,
    KINDS,
    LABELS,
    METRICS,
    SEED,
    STRATA,
    names_in,
    nearness,
)
from cli.training_tables import echo_tables

if TYPE_CHECKING:
    from heads.baselines.shared_baselines import FitBaselines
    from heads.data.feature_stores import Features
    from heads.deciding.decisions import DecisionOptions
    from heads.judging.detection_rule import DetectionRule
    from heads.running.train import Training
    from heads.splitting.task import Columns


@click.command()
@FEATURES
@click.option(
    "--blocks",
    metavar="NAME,...",
    help="Learn from these column blocks alone, such as both_100, or all that begin so: dna for dna.mean. predict and "
    "evaluate find them in any store that has the same.",
)
@LABELS
@click.option(
    "--label", metavar="COL[,COL...]", help="Column to learn; several are one yes-or-no label each.  [default: label]"
)
@click.option(
    "--per-position",
    is_flag=True,
    help="Learn a label for each letter of a sequence, from a store of --pool none: the label column holds a character for "
    "each letter (- for none), values with commas between them, or a list.",
)
@click.option(
    "--task",
    type=click.Choice(["auto", "classes", "regression"]),
    default="auto",
    show_default=True,
    help="What the label column holds; auto takes fractions of many values for a measured quantity.",
)
@click.option("--head", "kind", type=click.Choice(KINDS), default="lr", show_default=True, help="Kind of head.")
@click.option(
    "--split",
    metavar="COL|PLAN",
    help="Column of train, val and test, or a plan: none (60/20/20), kfold:5, nested:5x3, leave-out:COL, chromosome:COL, "
    "chromosome:COL:val=A:test=B,C.  [default: split where the store has it, else drawn]",
)
@click.option(
    "--group",
    metavar="COL",
    help="Column of groups that a drawn split keeps whole and the bootstrap draws, or none.  "
    "[default: group where it is there; else with --per-position the record]",
)
@STRATA
@DETECT
@DETECT_BY
@click.option("--weight", metavar="COL", help="Column of sample weights.")
@click.option(
    "--steps", metavar="STEP,...", help="Done to the features first, fitted on train: l2, standardise, pca:K, whiten."
)
@click.option(
    "--class-weight",
    metavar="none|balanced|both|CLASS=W,...",
    help="What the loss of a class is multiplied by.  [default: both are tried by lr, none elsewhere]",
)
@click.option(
    "--pos-weight", type=click.FloatRange(0, min_open=True), metavar="W", help="The same for the positive class."
)
@click.option(
    "--select",
    type=click.Choice(METRICS),
    metavar="METRIC",
    help="Metric that chooses the head, on validation rows, and stops a fit.  [default: auprc; of a quantity r2 or pinball]",
)
@click.option(
    "--threshold",
    default="f1",
    show_default=True,
    metavar="AIM",
    help="What the threshold serves on validation rows (two classes, labels): f1, mcc, balanced_acc, cost:FN:FP, recall:R, "
    "or a number.",
)
@click.option("--threshold-by-stratum", is_flag=True, help="A threshold for each of --strata.")
@click.option(
    "--calibration",
    type=click.Choice(["none", "temperature", "platt", "isotonic"]),
    default="none",
    show_default=True,
    help="Of the probabilities, on validation rows.",
)
@click.option(
    "--prior",
    metavar="none|train|P|CLASS=P,...",
    default="none",
    show_default=True,
    help="Shares of the classes that probabilities are for, where weights or samplers made others: those of train, the "
    "positive share, or one of each class.",
)
@click.option("--conformal", type=float, metavar="A", help="Also give sets (intervals) that miss a share A of rows.")
@click.option("--conformal-by-class", is_flag=True, help="That share for the rows of each class.")
@click.option("--positive", metavar="CLASS", help="Positive one of two classes.  [default: the last in sorted order]")
@click.option(
    "--init", "start", type=FOLDER, metavar="RUN", help="(mlp) Go on from the head of this run; see --freeze."
)
@click.option(
    "--near",
    type=click.FloatRange(0, 1),
    metavar="COS",
    help="Rows of train and test this close are near-duplicates; 0 looks for none.  [default: 0.999; with --per-position 0]",
)
@click.option("--strict", is_flag=True, help="Refuse a split that leaks.")
@click.option("-o", "--output", type=FOLDER, metavar="DIR", help="Run directory.  [default: runs/STORE-HEAD]")
@click.option("--overwrite", is_flag=True, help="Replace the run in --output.")
@click.option(
    "--memory",
    type=click.FloatRange(min=0),
    default=4.0,
    show_default=True,
    metavar="GIB",
    help="Keep features in memory up to this size, else read the store in every pass.",
)
@SEED
@click.option(
    "--split-seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="For drawn splits alone.  [default: --seed; in a sweep 0]",
)
@BOOTSTRAP
@DEVICE
@head_options
def train(features: tuple[str, ...], output: Path | None, overwrite: bool, **given: Any) -> None:
    """Train a head on a store that has a label column, and show it beside its baselines.

    All settings with several values are tried; the best on validation rows is kept.
    """
    done = run_training(features, output, overwrite, given, click.echo)
    asked = click.get_current_context().get_parameter_source("threshold")
    if done.results[0].decisions.thresholds is None and asked is click.core.ParameterSource.COMMANDLINE:
        click.echo("  --threshold has no effect: it is for two classes and for labels")
    echo_tables(done)
    click.echo(f"\nrun directory: {done.outdir} (report.html, metrics.json, predictions.parquet, model/)")
    click.echo(f"next: heads predict {done.outdir} --features STORE -o predictions.parquet")
    click.echo(f"      heads evaluate {done.outdir} --features STORE")


def _checked(
    features: Features, output: Path | None, overwrite: bool, given: dict[str, Any]
) -> tuple[Columns, DecisionOptions, tuple[DetectionRule, ...]]:
    """What is asked of a training, as objects: mistakes are found here, before torch and all that needs it is loaded."""
    from heads.deciding.decisions import DecisionOptions
    from heads.deciding.prior import parse_prior
    from heads.judging.detection_rule import DetectionRule
    from heads.running import runs
    from heads.splitting.stop_on import StopOn
    from heads.splitting.task import Columns, check_columns

    columns = Columns(given["label"], given["split"], given["group"], given["strata"], given["weight"])
    check_columns(features.open(), columns, {"--detect-by": given["detect_by"]}, StopOn.parse(given["head_stop_on"]))
    if output is not None:
        runs.refuse_existing(output, overwrite)
    decisions = DecisionOptions(
        calibration=given["calibration"],
        prior=parse_prior(given["prior"]),
        threshold=given["threshold"],
        by_stratum=given["threshold_by_stratum"],
        alpha=given["conformal"],
        by_class=given["conformal_by_class"],
    )
    return columns, decisions, tuple(map(DetectionRule.parse, given["detect"]))


def run_training(
    stores: tuple[str, ...],
    output: Path | None,
    overwrite: bool,
    given: dict[str, Any],
    say: Any,
    fit_baselines: FitBaselines | None = None,
) -> Training:
    """Train with the parameters of the command `train`; None fits the baselines for this training alone."""
    from heads.data.feature_stores import Features, names_of_labels

    by_letter = names_of_labels(given["label"] or "label") if given["per_position"] else None
    features = Features(stores, names_in(given["blocks"]), given["labels"], by_letter)
    kind, steps = given["kind"], given["steps"]
    if given["threshold_by_stratum"] and given["strata"] is None:
        raise click.UsageError("--threshold-by-stratum needs the strata: name their column with --strata")
    if given["head_freeze"] not in (None, "none") and given["start"] is None:
        raise click.UsageError("--freeze keeps layers of a saved head: name its run with --init")
    check_kind(kind, given)
    weights = class_weights(given["class_weight"], given["pos_weight"])
    columns, decisions, detect = _checked(features, output, overwrite, given)

    from heads.baselines.fit_baselines import baselines
    from heads.judging.results import Judging
    from heads.running.train import TrainOptions
    from heads.running.train import train as train_head
    from heads.saving.kinds import HEAD_KINDS
    from heads.steps import StepsOptions

    if kind in ("ridge", "quantile") and given["task"] == "auto":
        given["task"] = "regression"
    stop_on = given["head_stop_on"]
    options = options_of(kind, HEAD_KINDS[kind].options, given, weights)
    return train_head(
        features,
        TrainOptions(
            head=options,
            kind=kind,
            columns=columns,
            task=given["task"],
            positive=given["positive"],
            pos_weight=given["pos_weight"],
            steps=None if steps is None else StepsOptions.parse(steps),
            judging=Judging(decisions, given["bootstrap"], given["seed"]),
            select=given["select"],
            stop_on=stop_on,
            start=given["start"],
            near=nearness(given),
            strict=given["strict"],
            detect=detect,
            detect_by=given["detect_by"],
            seed=given["seed"],
            split_seed=given["split_seed"],
            device=given["device"],
            memory_bytes=int(given["memory"] * 2**30),
        ),
        say,
        output=output,
        overwrite=overwrite,
        fit_baselines=fit_baselines or baselines,
    )
