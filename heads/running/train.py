"""Training: labels and features of a store in, a run directory with a judged head out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from embedcache.errors import HeadError
from embedcache.storage.positionstore import WINDOW, PositionStore
from embedcache.storage.store import Store
from heads.baselines.fit_baselines import baselines
from heads.baselines.shared_baselines import FitBaselines
from heads.data.feature_stores import Features
from heads.data.features import MEMORY_BYTES, pick_device
from heads.data.labels import TaskKind
from heads.fitting import Record
from heads.judging.breakdown import Part
from heads.judging.detection import Detection, Detector, detector_of
from heads.judging.detection_rule import DetectionRule
from heads.judging.metrics import check_metric
from heads.judging.results import Judging, Result
from heads.perceptron.mlp_model import MLPModel
from heads.perceptron.mlp_options import MLPOptions
from heads.progress import told
from heads.running import report, runs
from heads.running.fit import Recipe, default_metric
from heads.running.keep_run import About, Say, Shown, keep_run
from heads.running.open_run import open_run
from heads.running.rounds import Outcome, Setting, fit_model, judge_once, run_folds
from heads.saving.kinds import check_kind
from heads.splitting.certificate import THRESHOLD
from heads.splitting.certificates import Certificates, certify_task
from heads.splitting.folds import Folds
from heads.splitting.stop_on import StopOn
from heads.splitting.task import Columns, Task, contents, describe, load_task, split_task
from heads.steps import StepsOptions


@dataclass(frozen=True)
class TrainOptions:
    """What `heads train` was asked for."""

    head: Any
    """Options of the kind of head, such as `heads.linear.logistic.LogisticOptions`."""
    kind: str = "lr"
    columns: Columns = field(default_factory=Columns)
    task: TaskKind = "auto"
    positive: str | None = None
    pos_weight: float | None = None
    """Weight of the positive class, in place of the head's class weights."""
    steps: StepsOptions | None = None
    judging: Judging = field(default_factory=Judging)
    select: str | None = None
    """Metric that chooses; None takes the usual one of the target."""
    stop_on: str | None = None
    """The rows that stop a fit early (`heads.splitting.stop_on`); None takes the validation rows."""
    start: Path | None = None
    """A run whose head is trained on."""
    start_flag: str = "--init"
    """What the command line calls it."""
    near: float | None = THRESHOLD
    """Cosine from which two rows count as near-duplicates; None looks for none."""
    strict: bool = False
    """Refuse a split that leaks."""
    detect: tuple[DetectionRule, ...] = ()
    """From which values on a predicted quantity counts as detected."""
    detect_by: str | None = None
    """Column of the classes that detection is counted by; None takes the truth."""
    seed: int = 0
    split_seed: int | None = None
    """Of a drawn split; None takes `seed`."""
    device: str = "auto"
    memory_bytes: int = MEMORY_BYTES


@dataclass(frozen=True)
class Training:
    """What came of a training: where it lies, and its table."""

    outdir: Path
    results: tuple[Result, ...]
    """The head first, then its baselines."""
    folds: tuple[Record, ...]
    """Test metrics of each fold; () for one split."""
    metrics: tuple[str, ...]
    """Those to show."""
    detections: Mapping[str, tuple[Detection, ...]] = field(default_factory=dict)
    """By the name of the split."""
    strata: tuple[Part, ...] = ()
    """The models on test rows by the strata that were asked for."""

    @classmethod
    def of(cls, outdir: Path, outcome: Outcome, kept: Shown) -> Training:
        """What a judged training has come to."""
        shown = report.shown_metrics(outcome.task.target.kind, outcome.quantiles)
        strata = tuple(part for part in kept.parts if part.column == outcome.task.columns.stratum)
        return cls(outdir, outcome.results, outcome.folds, shown, kept.detections, strata)


def train(
    features: Features,
    options: TrainOptions,
    say: Say,
    *,
    output: Path | None = None,
    overwrite: bool = False,
    fit_baselines: FitBaselines = baselines,
) -> Training:
    """Train a head on a store, judge it beside its baselines, and write the run directory.

    Many trainings share what they have in common by one `heads.baselines.shared_baselines.SharedBaselines` as
    `fit_baselines`.

    Raises HeadError or StoreError, and leaves nothing behind then.
    """
    started = datetime.now(UTC)
    store = features.open(say)
    outdir = output or runs.free_name(store.path, options.kind)
    runs.refuse_existing(outdir, overwrite)
    device = pick_device(options.device)
    task = load_task(store, options.columns, kind=options.task, positive=options.positive)
    split_seed = options.seed if options.split_seed is None else options.split_seed
    task, folds = split_task(store, task, split_seed, StopOn.parse(options.stop_on))
    recipe = recipe_of(options, store, task)
    detector = detector_of_task(options, store, task)
    certificate = certify_task(store, task, folds, options.near, device, options.memory_bytes)
    arguments = {**_said(features), **plain(options), "columns": asdict(task.columns), "select": recipe.select}
    introduce(store, task, folds, certificate, say)
    if options.strict:
        certificate.require_clean()

    with threadpool_limits(1, "blas"), runs.new_folder(outdir, overwrite) as folder:
        with told(f"{options.kind} head") as progress:
            setting = Setting(store, recipe, options.judging, device, progress, say, fit_baselines)
            if folds is None:
                outcome = judge_once(task, fit_model("", task, setting), setting)
            else:
                outcome = run_folds(task, folds, setting)
        about = About(outdir, started, str(device), arguments, store.origin)
        kept = keep_run(folder, store, outcome, about, certificate, options.judging, detector, say)
    return Training.of(outdir, outcome, kept)


def _said(features: Features) -> dict[str, Any]:
    chosen = {
        "blocks": list(features.blocks),
        "labels": None if features.labels is None else str(features.labels),
        "per_position": features.per_position is not None,
    }
    return {"features": features.to_json(), **{name: value for name, value in chosen.items() if value}}


def detector_of_task(options: TrainOptions, store: Store, task: Task) -> Detector:
    """What is counted as detected among the rows of a task; raises HeadError for classes, and for an unknown column."""
    if (options.detect or options.detect_by) and task.target.kind != "regression":
        raise HeadError(
            f"--detect is for measured quantities, and '{task.columns.label}' holds classes: their detection_by_class is in "
            "metrics.json"
        )
    return detector_of(store, task.rows, options.detect, options.detect_by)


def recipe_of(options: TrainOptions, store: Store, task: Task) -> Recipe:
    """What holds for every fit.

    Raises HeadError where the kind of head cannot learn the labels or does not know the metric, and where a head to go on
    from does not fit the store or the labels.
    """
    check_kind(options.kind, task.target.kind, str(task.columns.label))
    select = options.select or default_metric(task.target.kind, tuple(getattr(options.head, "quantiles", ()) or ()))
    check_metric(task.target.kind, select)
    start = None
    if options.start is not None:
        (start, *others), card = (run := open_run(options.start)).heads, run.card
        if others:
            raise HeadError(
                f"{options.start_flag} {options.start} has a head for each of {len(run.heads)} folds: name a run with "
                f"one{run.of_one_fold}"
            )
        if (options.kind, card.kind) != (MLPModel.kind, MLPModel.kind):
            raise HeadError(
                f"{options.start_flag} {options.start}: only --head mlp goes on from a saved head, and only from one of its "
                f"kind; this is --head {options.kind}, and the run holds {card.kind}"
            )
        if (card.fingerprint, card.dim) != (store.fingerprint, store.dim) or not card.matches(task.target):
            before = f"{card.encoder.get('name')} for {', '.join(map(str, card.names))} ({card.target})"
            now = f"{store.attrs['encoder']['name']} for {', '.join(map(str, task.target.names))} ({task.target.kind})"
            if now == before:
                now += ", read out by other layers, poolings or options"
            raise HeadError(f"{options.start_flag} {options.start} was trained on {before}; this training is on {now}")
    head = options.head if options.pos_weight is None else _with_pos_weight(options, task)
    if start is not None and isinstance(start.head, MLPModel) and head.hidden == MLPOptions().hidden:
        head = replace(head, hidden=tuple(start.head.perceptron.sizes[1:-1]))
    stop_on = StopOn.parse(options.stop_on)
    return Recipe(options.kind, head, options.steps, select, options.seed, options.memory_bytes, start, stop_on)


def _with_pos_weight(options: TrainOptions, task: Task) -> Any:
    if task.target.kind != "binary":
        raise HeadError(
            f"--pos-weight is for two classes, and '{task.columns.label}' has other values: take --class-weight CLASS=W"
        )
    weight = {str(task.target.names[-1]): options.pos_weight}
    if hasattr(options.head, "class_weights"):
        return replace(options.head, class_weights=(weight,))
    if hasattr(options.head, "class_weight"):
        return replace(options.head, class_weight=weight)
    raise HeadError(f"--pos-weight means nothing to --head {options.kind}")


def introduce(store: Store, task: Task, folds: Folds | None, certificate: Certificates, say: Say) -> None:
    """Say what is trained on."""
    encoder = store.attrs["encoder"]
    of = f"positions of {len(store.tokens):,} records" if isinstance(store, PositionStore) else "rows"
    say(f"{store.path}: {len(store):,} {of} x {store.dim} {store.dtype} of {encoder['name']}")
    if isinstance(store, PositionStore):
        say(f"  what a baseline sees of a position are the {WINDOW} letters around it")
    if store.compress:
        say(f"  its values are compressed ({store.compress}): reading them takes longer than from a plain store")
    if encoder.get("meaningless"):
        say(f"WARNING: {report.MEANINGLESS}")
    said = {
        "binary": f"positive class {task.target.names[-1]!s}",
        "multiclass": f"{len(task.target.names)} classes",
        "multilabel": f"{len(task.target.names)} labels",
        "regression": "a measured quantity",
    }[task.target.kind]
    say(f"label '{task.columns.label}', {said}; split: {task.origin}")
    say(describe(task) if folds is None else f"  {len(task.rows):,} rows  {contents(task.target)}")
    for line in (*task.notes, *certificate.lines()):
        say(f"  {line}")


def plain(value: Any) -> Any:
    """Options as YAML and JSON have them."""
    if is_dataclass(value) and not isinstance(value, type):
        return {key: plain(item) for key, item in vars(value).items()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
