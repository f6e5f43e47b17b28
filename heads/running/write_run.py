"""What came of a training, written into its run directory: metrics, predictions, pictures, report and card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from embedcache.storage.store import Store
from heads.fitting import Record
from heads.judging import plots
from heads.judging.breakdown import Part, mean_records, means
from heads.judging.breakdown import records as breakdown_records
from heads.judging.breakdown import to_json as breakdown_json
from heads.judging.detection import Detection
from heads.judging.results import Result, take
from heads.running import predictions, report, runs
from heads.running.card import write_card
from heads.running.fit import Fit
from heads.running.report import Page
from heads.running.rounds import Outcome
from heads.running.runs import Manifest
from heads.splitting.certificates import Certificates
from heads.splitting.splits import TEST
from heads.splitting.task import contents, describe


def write_run(
    folder: Path,
    store: Store,
    outcome: Outcome,
    manifest: Manifest,
    certificate: Certificates,
    notes: list[str],
    parts: Sequence[Part],
    detections: Mapping[str, tuple[Detection, ...]],
) -> None:
    """Write everything of a run but its heads into its folder.

    Parameters
    ----------
    notes : those of the fits and decisions.
    parts : the models on test rows, by stratum and by group.
    detections : what the models detect, by the name of the split.
    """
    task, head = outcome.task, outcome.results[0]
    fit, quantiles = outcome.models[0].fit, outcome.quantiles
    history = _records(outcome, lambda one: one.fitted.history)
    trials = _records(outcome, lambda one: one.fitted.trials)
    chosen = [dict(model.fit.fitted.chosen) for model in outcome.models]
    every_note = [*task.notes, *certificate.leaks, *notes]
    metrics = {
        "n_rows": len(task.rows),
        **head.to_json(),
        "selected": chosen[0] if outcome.single else chosen,
        "select": fit.select,
        **({} if fit.stopped_on is None else {"stop_on": fit.stopped_on.value}),
        "target": task.target.kind,
        "classes": list(task.target.names),
        "label": task.columns.label,
        "split": task.origin,
        "notes": every_note,
        "baselines": {rival.name: {**rival.to_json(), **_folds(outcome, rival)} for rival in outcome.results[1:]},
        "breakdown": breakdown_json(parts),
        "breakdown_mean": means(parts),
        **({"detection": _by_rule(detections)} if detections else {}),
        "history": history or trials,
        **({"grid": trials} if history else {}),
        **({"folds": list(outcome.folds)} if outcome.folds else {}),
    }
    runs.write_json(folder / runs.METRICS, metrics)
    runs.write_json(folder / runs.MANIFEST, runs.manifest_json(manifest))
    runs.write_json(folder / runs.CERTIFICATE, certificate.to_json())
    runs.write_config(folder / runs.CONFIG, manifest.args)
    runs.write_records(folder / runs.HISTORY, history or trials)
    if history:
        runs.write_records(folder / runs.GRID, trials)
    if parts:
        runs.write_records(folder / runs.BREAKDOWN, breakdown_records(parts))
    columns = predictions.said(task.target.kind, task.target.names, head.decided, quantiles)
    runs.write_predictions(folder, store, task.rows, task.target, outcome.splits, columns)
    pictures = _draw(folder / runs.PLOTS, outcome)
    page = Page(
        encoder=store.attrs["encoder"],
        manifest=manifest,
        kind=task.target.kind,
        label=str(task.columns.label),
        origin=task.origin,
        described=describe(task) if outcome.single else contents(task.target),
        results=outcome.results,
        certificate=certificate.lines(),
        chosen=f"Chosen by {fit.score}: {fit.settings}." if outcome.single else _chosen_in_folds(fit),
        trials=trials,
        history=history,
        breakdown=[*breakdown_records(parts), *mean_records(parts)],
        pictures=pictures,
        notes=every_note,
        folds=_folds_of_all(outcome),
        detections=detections,
    )
    report.write(folder, page)
    write_card(folder, metrics, runs.manifest_json(manifest))


def _chosen_in_folds(fit: Fit) -> str:
    stopped = "" if fit.stopped_on is None else f", stopped by {fit.stopped_on.words}"
    return f"Chosen in each fold by {fit.select}{stopped}."


def _folds(outcome: Outcome, rival: Result) -> dict[str, object]:
    found = outcome.baseline_folds.get(rival.name)
    return {} if found is None else {"folds": list(found)}


def _folds_of_all(outcome: Outcome) -> list[Record]:
    """The test metrics of each fold, those of the head first, then those of its baselines."""
    models = {outcome.results[0].name: outcome.folds, **outcome.baseline_folds}
    by_fold = zip(*models.values(), strict=True)
    return [{"model": model, **record} for of_fold in by_fold for model, record in zip(models, of_fold, strict=True)]


def _by_rule(detections: Mapping[str, tuple[Detection, ...]]) -> dict[str, dict[str, object]]:
    """What was detected, by the words of ``--detect`` and the name of the split."""
    found: dict[str, dict[str, object]] = {}
    for part, several in detections.items():
        for one in several:
            found.setdefault(str(one.rule), {"by": one.by})[part] = one.to_json()
    return found


def _records(outcome: Outcome, of: Callable[[Fit], tuple[Record, ...]]) -> list[Record]:
    """Records of all fits, with the name of the fold before each where there are folds."""
    return [
        {"fold": model.name, **record} if model.name else record for model in outcome.models for record in of(model.fit)
    ]


def _draw(folder: Path, outcome: Outcome) -> list[str]:
    folder.mkdir()
    rows = outcome.task.part(TEST)
    said = take(outcome.results[0].decided, rows)
    return plots.draw_plots(folder, outcome.task.target.take(rows), said.outputs, said.predictions)
