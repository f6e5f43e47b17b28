"""`heads`: train light heads on a store of embeddings, predict with them, evaluate, export and sweep them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cli.errors import run
from cli.finetune import finetune_command
from cli.head_options import check_kind, class_weights, head_options, options_of
from cli.training_log import log_command

if TYPE_CHECKING:
    from heads.data.feature_stores import Features
    from heads.deciding.decisions import DecisionOptions
    from heads.judging.aggregation import How
    from heads.judging.detection_rule import DetectionRule
    from heads.running.prediction_file import ByParent
    from heads.running.train import Training
    from heads.splitting.task import Columns

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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def heads() -> None:
    """Train light heads on cached embeddings, in seconds."""


@heads.command()
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
    "[default: group where it is there]",
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
    help="Metric on validation rows that stops a fit and chooses the head.  [default: auprc; of a quantity r2 or pinball]",
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
    help="Rows of train and test this close are near-duplicates; 0 looks for none.  [default: 0.999]",
)
@click.option("--strict", is_flag=True, help="Refuse a split that leaks.")
@click.option("--output", type=FOLDER, metavar="DIR", help="Run directory.  [default: runs/STORE-HEAD]")
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
    done = _train(features, output, overwrite, given, click.echo)

    from heads.running import report

    asked = click.get_current_context().get_parameter_source("threshold")
    if done.results[0].decisions.thresholds is None and asked is click.core.ParameterSource.COMMANDLINE:
        click.echo("  --threshold has no effect: it is for two classes and for labels")
    for part in [part for part in ("val", "test") if part in done.results[0].parts]:
        click.echo("\n" + report.table(done.results, part, done.metrics))
        if done.results[0].parts[part].conformal is not None:
            click.echo(f"conformal: {done.results[0].parts[part].conformal}")
        for found in done.detections.get(part, ()):
            click.echo("\n" + report.detection_table(found))
    if done.folds:
        click.echo(report.folds_line(done.folds, done.metrics))
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
    from heads.splitting.task import Columns, check_columns

    columns = Columns(given["label"], given["split"], given["group"], given["strata"], given["weight"])
    check_columns(features.open(), columns, {"--detect-by": given["detect_by"]})
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


def _train(stores: tuple[str, ...], output: Path | None, overwrite: bool, given: dict[str, Any], say: Any) -> Training:
    """Train with the parameters of the command `train`."""
    from heads.data.feature_stores import Features

    features = Features(stores, _names(given["blocks"]), given["labels"])
    kind, near, steps = given["kind"], given["near"], given["steps"]
    if given["threshold_by_stratum"] and given["strata"] is None:
        raise click.UsageError("--threshold-by-stratum needs the strata: name their column with --strata")
    if given["head_freeze"] not in (None, "none") and given["start"] is None:
        raise click.UsageError("--freeze keeps layers of a saved head: name its run with --init")
    check_kind(kind, given)
    weights = class_weights(given["class_weight"], given["pos_weight"])
    columns, decisions, detect = _checked(features, output, overwrite, given)

    from heads.judging.results import Judging
    from heads.running.train import TrainOptions
    from heads.running.train import train as train_head
    from heads.saving.kinds import HEAD_KINDS
    from heads.splitting.certificate import THRESHOLD
    from heads.steps import StepsOptions

    if kind in ("ridge", "quantile") and given["task"] == "auto":
        given["task"] = "regression"
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
            start=given["start"],
            near=THRESHOLD if near is None else near or None,
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
    )


@heads.command()
@click.argument("run_directory", type=FOLDER, metavar="RUN")
@click.option("--features", multiple=True, metavar="STORE", help=FEATURES_HELP.partition(" STORE:")[0])
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="FILE",
    help="Sequences instead of a store: encoded on the way by the encoder that the head was trained on.",
)
@click.option(
    "--model", metavar="NAME|DIR", help="With --input: the encoder, where it is not found under its recorded name."
)
@click.option("--any-alphabet", is_flag=True, help="With --input: also take sequences that look like another alphabet.")
@click.option("--trust-remote-code", is_flag=True, help="With --input: run code that comes with an hf: encoder.")
@click.option(
    "-o", "--output", type=FOLDER, required=True, metavar="FILE", help="File to write: parquet, or .csv, .tsv, .csv.gz."
)
@AGGREGATE
@BY
@STRICT
@DEVICE
def predict(
    run_directory: Path,
    features: tuple[str, ...],
    inputs: tuple[str, ...],
    output: Path,
    aggregate: How | None,
    by: str | None,
    strict: bool,
    device: str,
    **raw: Any,
) -> None:
    """Score every row of a store, or of sequence files, with the head of RUN; no labels are needed."""
    from heads.data.feature_stores import Features
    from heads.running.predict import encoder_of, predict_sequences
    from heads.running.predict import predict as predict_rows

    if bool(features) == bool(inputs):
        raise click.UsageError("name the rows: --features STORE, or --input FILE")
    parents = _by_parent(aggregate, by)
    if features:
        if any(raw.values()):
            raise click.UsageError("--model, --any-alphabet and --trust-remote-code are for --input")
        stores = Features(features)
        predict_rows(run_directory, stores, output, click.echo, aggregate=parents, strict=strict, device=device)
        return
    from embedcache.input_options import InputOptions
    from embedcache.records import remarks_of
    from embedcache.sources import open_records
    from heads.progress import told

    # the genes of cells are ranked as the head's encoder wants them
    source = open_records(InputOptions(inputs), raw["model"] or encoder_of(run_directory), progress=True)
    for remark in remarks_of(source):
        click.echo(f"  {remark}")
    with told("predicting rows") as told_of:
        predict_sequences(
            run_directory,
            source,
            output,
            click.echo,
            aggregate=parents,
            strict=strict,
            device=device,
            progress=lambda rows: told_of(rows, 0, ""),
            **raw,
        )


def _by_parent(aggregate: How | None, by: str | None) -> ByParent | None:
    from heads.running.prediction_file import ByParent

    if aggregate is None and by is not None:
        raise click.UsageError("--by names the parents of windows: say how to put these together with --aggregate")
    return None if aggregate is None else ByParent(aggregate, by)


@heads.command()
@click.argument("run_directory", type=FOLDER, metavar="RUN")
@FEATURES
@LABELS
@click.option("--label", metavar="COL[,COL...]", help="Column of what is true.  [default: the one of the training]")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    help="Rows to judge.  [default: test where RUN was trained on this store, else all that did not train it]",
)
@STRATA
@DETECT
@DETECT_BY
@AGGREGATE
@BY
@click.option("-o", "--output", type=FOLDER, metavar="FILE", help="Also write the metrics as JSON.")
@STRICT
@SEED
@BOOTSTRAP
@DEVICE
def evaluate(
    run_directory: Path,
    features: tuple[str, ...],
    labels: Path | None,
    label: str | None,
    split: str | None,
    strata: str | None,
    detect: tuple[str, ...],
    detect_by: str | None,
    aggregate: How | None,
    by: str | None,
    output: Path | None,
    strict: bool,
    seed: int,
    bootstrap: int,
    device: str,
) -> None:
    """Judge the head of RUN on a store with labels."""
    from heads.data.feature_stores import Features
    from heads.judging.detection_rule import DetectionRule
    from heads.judging.results import Judging
    from heads.running import report
    from heads.running.evaluate import evaluate_run, write_evaluation

    stores = Features(features, labels=labels)
    judged = evaluate_run(
        run_directory,
        stores,
        click.echo,
        label=label,
        split=split,
        strata=strata,
        aggregate=_by_parent(aggregate, by),
        detect=tuple(map(DetectionRule.parse, detect)),
        detect_by=detect_by,
        judging=Judging(resamples=bootstrap, seed=seed),
        strict=strict,
        device=device,
    )
    click.echo(f"{stores}: {judged.rows.what}")
    for note in (*judged.notes, *judged.rows.notes):
        click.echo(f"  {note}")
    metrics = report.shown_metrics(judged.rows.head.evaluation.kind, judged.quantiles)
    click.echo(report.judged_table(judged.rows, metrics))
    for found in judged.rows.detections:
        click.echo("\n" + report.detection_table(found))
    if judged.rows.parts:
        click.echo("\n" + report.parts_table(judged.rows.parts, metrics))
    if judged.parents is not None:
        click.echo(f"\n{judged.parents.what}")
        for note in judged.parents.notes:
            click.echo(f"  {note}")
        click.echo(report.judged_table(judged.parents, metrics, "parents"))
        if judged.parents.parts:
            click.echo("\n" + report.parts_table(judged.parents.parts, metrics))
    if output is not None:
        write_evaluation(output, judged)


@heads.command()
@click.argument("run_directory", type=FOLDER, metavar="RUN")
@click.option("--to", "form", type=click.Choice(["onnx", "sklearn"]), required=True, help="What to write.")
@click.option("-o", "--output", type=FOLDER, metavar="FILE|DIR", help="[default: RUN/head.onnx, RUN/sklearn]")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
def export(run_directory: Path, form: str, output: Path | None, overwrite: bool) -> None:
    """Write the head of RUN for other programs: an ONNX file, or a folder that gives a scikit-learn pipeline.

    Scores are equal. The features are those of the store, before any steps; the threshold is in the file, thresholds by
    stratum are in its metadata and not applied, conformal sets are not in it.
    """
    from embedcache.errors import HeadError
    from heads.running.open_run import open_run
    from heads.saving.export import export_onnx, export_sklearn, refuse_existing

    opened = open_run(run_directory)
    output = output or run_directory / ("head.onnx" if form == "onnx" else "sklearn")
    if not overwrite:
        refuse_existing(output)
    if len(opened.heads) > 1:
        raise HeadError(
            f"{run_directory} has a head for each of {len(opened.heads)} folds: train one on a single split"
        )
    decisions = opened.first.decisions
    if decisions.thresholds is not None and decisions.thresholds.strata:
        click.echo(
            f"  the head has a threshold for each stratum of '{opened.card.strata}': the file applies none of them and cuts "
            "at that of all rows; they are in its metadata, and `heads predict` applies them"
        )
    if form == "onnx":
        export_onnx(opened.first, output)
        click.echo(f"{output}: features (n, {opened.card.dim}) float32 in, probabilities or values out")
    else:
        export_sklearn(opened.first, output)
        click.echo(f"{output}: `from sklearn_head import load; load()` in this folder gives the fitted pipeline")


@heads.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@FEATURES
@click.option(
    "--vary",
    multiple=True,
    metavar="OPTION=V,V,...",
    help="An option of `heads train` and its values, such as --vary head=lr,mlp --vary seed=0,1,2.",
)
@click.option(
    "--plan", type=FOLDER, metavar="FILE", help="The same as YAML: OPTION: [V, V] lines; values may hold commas."
)
@click.option(
    "--zip", "zipped", is_flag=True, help="Take first values together, then second ones, instead of all combinations."
)
@click.option(
    "--select",
    type=click.Choice(METRICS),
    metavar="METRIC",
    help="Metric on validation rows that chooses.  [default: as for train]",
)
@click.option("--output", type=FOLDER, required=True, metavar="DIR", help="Folder of the sweep.")
@click.pass_context
def sweep(
    context: click.Context,
    features: tuple[str, ...],
    vary: tuple[str, ...],
    plan: Path | None,
    zipped: bool,
    select: str | None,
    output: Path,
) -> None:
    """Train many heads with every combination of some options, and put them side by side.

    All other options are those of `heads train`. Run again, a sweep goes on where it stopped: finished runs stay, failed
    ones are tried again, and runs of other points stay in the table. Ends with exit code 1 where a run failed.
    """
    from embedcache.errors import HeadError, Interrupted
    from heads.data.feature_stores import Features
    from heads.head import read_json
    from heads.running.run_sweep import sweep as run_sweep
    from heads.running.sweep_plan import Sweep
    from heads.running.sweep_tables import summary

    if (plan is None) == (not vary):
        raise click.UsageError("say what varies: --vary OPTION=V,V or --plan FILE")
    points = Sweep.parse(vary, "zip" if zipped else "product") if plan is None else Sweep.read(plan)
    shared = [*context.args, *(["--select", select] if select else [])]
    for point in points.points:
        _parameters(features, shared, dict(point))
    Features(features).open()  # what is wrong with it would be wrong with every run

    def train_one(point: Mapping[str, str], outdir: Path) -> Mapping[str, object]:
        given = _parameters(features, shared, point)
        given.pop("features"), given.pop("output"), given.pop("overwrite")
        if given["split_seed"] is None and "seed" in points.values:
            given["split_seed"] = 0  # other rows would make the runs of one point another experiment each
        try:
            _train(features, outdir, False, given, lambda line: None)
        except click.UsageError as error:  # an option that means nothing to one of the heads
            raise HeadError(error.message) from None
        return read_json(outdir / "metrics.json")

    try:
        swept = run_sweep(
            points,
            output,
            train_one,
            metric=select,
            fixed={"features": " + ".join(features), "options": shared},
            say=click.echo,
        )
    except KeyboardInterrupt:
        done = len(list(output.glob("*/metrics.json")))
        raise Interrupted(
            f"stopped by Ctrl-C: {done} of {len(points.points)} runs are finished and stay; run the same command to go on"
        ) from None
    click.echo("\n" + summary(swept))
    tables = sorted(file for file in output.iterdir() if file.suffix in (".csv", ".md"))
    click.echo(f"\ntables: {', '.join(map(str, tables))}")
    if swept.best is not None:
        best = swept.best.runs[0].folder
        click.echo(f"next: heads evaluate {best} {shlex.join(_flags(features))} (its report: {best / 'report.html'})")
    if swept.failed:
        first = swept.failed[0]
        words = [word for name, value in first.point.items() for word in (f"--{name}", value)]
        command = ["heads", "train", *_flags(features), *shared, *words, "--output", str(first.folder)]
        click.echo(
            f"{len(swept.failed)} of {len(points.points)} runs failed; to see why: {shlex.join(command)}", err=True
        )
        context.exit(1)


def _flags(features: Sequence[str]) -> list[str]:
    return [word for store in features for word in ("--features", store)]


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def _parameters(features: Sequence[str], shared: Sequence[str], point: Mapping[str, str]) -> dict[str, Any]:
    """Parameters of the command `train`, parsed as it would parse them; raises what it would."""
    words = [word for name, value in point.items() for word in (f"--{name}", value)]
    flags = {flag for option in train.params for flag in option.opts}
    for name in point:
        if f"--{name}" not in flags or name in ("features", "output"):
            raise click.UsageError(f"--vary {name}: `heads train` has no option --{name} that can vary")
    parsed = train.make_context("heads train", [*_flags(features), *shared, *words])
    return dict(parsed.params)


heads.add_command(finetune_command(train))
heads.add_command(log_command)


def main() -> NoReturn:
    """Entry point of the program `heads`."""
    run(heads, "heads")
