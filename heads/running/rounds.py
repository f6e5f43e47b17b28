"""A head and its baselines, fitted and judged: once for one split, or fold by fold.

In folds every row is judged once, by a head that has not seen it, with a threshold and a calibration from that fold's own
validation rows. In nested folds the heads of a fold's inner pairs are averaged, and each of its other rows validates the one
head that did not train on it. How a model is made is asked of a function (`fit_model`): a fine-tuning makes an encoder too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from embedcache.storage.store import Store
from heads.baselines.fit_baselines import Baseline, baselines, constant
from heads.baselines.saved_baselines import SavedBaseline
from heads.baselines.shared_baselines import FitBaselines
from heads.data.target import Codes, Doubles
from heads.deciding.decisions import Decisions, fit_decisions
from heads.fitting import Progress, Record, Scalar, say_nothing
from heads.judging.results import Judging, PartResult, Result, gather, judge, judge_rows, take
from heads.running.fit import Fit, Recipe, fit_head, trained_shares
from heads.splitting.folds import Fold, Folds
from heads.splitting.splits import NAMES, TEST, TRAIN, VAL
from heads.splitting.task import Task

Say = Callable[[str], None]
HEAD = ""
"""The key of the head among the results of a fold; baselines have their own."""


@dataclass(frozen=True)
class Model:
    """A fitted head, and the features that it reads."""

    name: str
    """Of its fold, in nested folds with the number of its pair; empty for one split."""
    fit: Fit
    store: Store


@dataclass(frozen=True)
class Outcome:
    """What was fitted and how it did."""

    task: Task
    """With its parts; of folds every row is TEST."""
    splits: tuple[str, ...]
    """Of each row ``train``, ``val``, ``test`` or ``stop``, or the name of the fold that judged it."""
    results: tuple[Result, ...]
    """The head first, then its baselines."""
    models: tuple[Model, ...]
    """One, or those of the folds."""
    decisions: Decisions
    """For new rows."""
    baselines: tuple[SavedBaseline, ...]
    """As they are kept with the run."""
    folds: tuple[Record, ...] = ()
    """The head's test metrics of each fold."""
    baseline_folds: Mapping[str, tuple[Record, ...]] = field(default_factory=dict)
    """Those of each baseline, by its name."""

    @property
    def single(self) -> bool:
        """Whether there was one split."""
        return not self.folds

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Of the heads, where they have some."""
        return self.models[0].fit.fitted.head.quantiles


@dataclass(frozen=True)
class Setting:
    """What all rounds of a training share."""

    store: Store
    recipe: Recipe
    judging: Judging
    device: torch.device
    progress: Progress = say_nothing
    say: Say = print
    fit_baselines: FitBaselines = baselines
    title: str | None = None
    """What the row of the head in the tables is called, where that is more than its kind."""


MakeModel = Callable[[str, Task, Setting], Model]
"""Makes the model of a name for the parts of a task."""


def fit_model(name: str, task: Task, setting: Setting) -> Model:
    """Fit a head to the features of the store."""
    train, val, stop = task.fitted_to(setting.recipe.stop_on)
    fit = fit_head(
        setting.store, train, val, setting.recipe, stop=stop, device=setting.device, progress=setting.progress
    )
    return Model(name, fit, setting.store)


def parts_of(task: Task, fold: Fold) -> dict[str, Task]:
    """The task as each model of a fold sees it, by the name of the model: one for the fold, or one for each inner pair."""
    pairs = {f"{fold.name}-{number}": pair for number, pair in enumerate(fold.inner, 1)}
    return {
        name: replace(task, parts=Fold(name, train, val, fold.test).parts(len(task.rows)))
        for name, (train, val) in (pairs or {fold.name: (fold.train, fold.val)}).items()
    }


def judge_once(task: Task, model: Model, setting: Setting) -> Outcome:
    """Judge a model on the one split of a task, beside its baselines."""
    outputs, shares = _said(task, model, setting)
    head = _judge_head(task, model.fit, outputs, shares, setting)
    rivals = _judge_baselines(task, model.fit.fitted.head.quantiles, setting)
    results = (head, *(result for result, _ in rivals))
    kept = tuple(SavedBaseline(result.name, result.decisions, (found.model,)) for result, found in rivals)
    names = np.array([*NAMES, ""], object)[task.parts]  # one text for all rows of a part
    return Outcome(task, tuple(names.tolist()), results, (model,), head.decisions, kept)


def run_folds(task: Task, folds: Folds, setting: Setting, make: MakeModel = fit_model) -> Outcome:
    """Fit and judge fold by fold, and judge all rows together by what was said of them when they were held out."""
    models: list[Model] = []
    by_fold: list[tuple[Fold, dict[str, Result]]] = []
    rivals: list[tuple[Codes, dict[str, Baseline]]] = []
    held_out: list[tuple[Codes, Doubles]] = []
    for number, fold in enumerate(folds, 1):
        progress = told_of(setting.progress, f"{number}/{len(folds)} {fold.name}")
        say = setting.say if number == 1 else _quiet
        own = replace(setting, judging=replace(setting.judging, resamples=0), progress=progress, say=say)
        parts = parts_of(task, fold)
        made = [make(name, part, own) for name, part in parts.items()]
        outputs, shares = _said_together(tuple(parts.values()), made, own)
        models += made
        first, fit = next(iter(parts.values())), made[0].fit
        judged = _validated(first, fold)
        head = _judge_head(judged, fit, outputs, shares, own)
        found = _judge_baselines(first, fit.fitted.head.quantiles, own)
        by_fold.append((fold, {HEAD: head, **{rival.key: result for result, rival in found}}))
        rivals.append((first.part(VAL), {rival.key: rival for _, rival in found}))
        held_out.append((judged.part(VAL), outputs[judged.part(VAL)]))
    in_all = [key for key in by_fold[0][1] if all(key in results for _, results in by_fold)]
    pooled = {key: _pool(task, by_fold, key, setting.judging) for key in in_all}
    names = np.full(len(task.rows), "", object)
    for fold in folds:
        names[fold.test] = fold.name
    return Outcome(
        replace(task, parts=np.full(len(task.rows), TEST, np.int64)),
        tuple(names.tolist()),
        tuple(pooled.values()),
        tuple(models),
        _decisions(task, held_out, models[0].fit.fitted.head.quantiles, setting.judging),
        tuple(_keep(task, key, result, rivals, setting.judging) for key, result in pooled.items() if key != HEAD),
        tuple(_record(fold, results[HEAD]) for fold, results in by_fold),
        {
            pooled[key].name: tuple(_record(fold, results[key]) for fold, results in by_fold)
            for key in in_all
            if key != HEAD
        },
    )


def _said(task: Task, model: Model, setting: Setting) -> tuple[Doubles, Doubles | None]:
    """Outputs of all rows, and the shares of the classes as training saw them."""
    outputs = model.fit.outputs(model.store, task.rows, setting.device)
    return outputs, trained_shares(model.fit, task.examples(TRAIN), setting.recipe.options)


def _said_together(parts: Sequence[Task], models: Sequence[Model], setting: Setting) -> tuple[Doubles, Doubles | None]:
    """Outputs of all rows: the mean of all models of a fold, but on validation rows of the model that held them out."""
    found = [_said(part, model, setting) for part, model in zip(parts, models, strict=True)]
    mean = np.mean([outputs for outputs, _ in found], axis=0)
    for part, (outputs, _) in zip(parts, found, strict=True):
        mean[part.part(VAL)] = outputs[part.part(VAL)]
    shares = [share for _, share in found if share is not None]
    return mean, np.mean(shares, axis=0) if shares else None


def _judge_head(task: Task, fit: Fit, outputs: Doubles, shares: Doubles | None, setting: Setting) -> Result:
    name, quantiles = setting.title or f"{setting.recipe.kind} head", fit.fitted.head.quantiles
    return judge(task, name, outputs, setting.judging, quantiles=quantiles, trained_shares=shares)


def _judge_baselines(task: Task, quantiles: tuple[float, ...], setting: Setting) -> tuple[tuple[Result, Baseline], ...]:
    found, reasons = setting.fit_baselines(
        setting.store,
        task,
        kind=setting.recipe.kind,
        device=setting.device,
        memory_bytes=setting.recipe.memory_bytes,
        progress=setting.progress,
    )
    for reason in reasons:
        setting.say(f"  {reason}")
    judged = [(judge(task, rival.name, rival.outputs, setting.judging), rival) for rival in found]
    if quantiles:
        held = np.quantile(np.asarray(task.examples(TRAIN).target.values, np.float64), quantiles)
        rival = constant("quantiles of train only", held, len(task.rows))
        judged.insert(1, (judge(task, rival.name, rival.outputs, setting.judging, quantiles=quantiles), rival))
    return tuple(judged)


def _keep(
    task: Task, key: str, pooled: Result, rivals: Sequence[tuple[Codes, dict[str, Baseline]]], judging: Judging
) -> SavedBaseline:
    """The baseline of all folds, with decisions from all of their validation rows."""
    held_out = [(val, found[key].outputs[val]) for val, found in rivals]
    decisions = _decisions(task, held_out, pooled.decisions.quantiles, judging)
    return SavedBaseline(pooled.name, decisions, tuple(found[key].model for _, found in rivals))


def told_of(progress: Progress, fold: str) -> Progress:
    """What is told of one fold."""
    return lambda done, total, text: progress(done, total, f"fold {fold}: {text}" if text else "")


def _quiet(line: str) -> None:
    """What was said of the first fold holds for the others."""


def _validated(task: Task, fold: Fold) -> Task:
    """A fold's task in which the validation rows of all pairs validate."""
    return replace(task, parts=np.where(task.parts == TRAIN, VAL, task.parts)) if fold.inner else task


def _record(fold: Fold, result: Result) -> Record:
    values: dict[str, Scalar] = {"fold": fold.name, "rows": len(fold.test)}
    values.update(result.parts["test"].evaluation.values)
    return values


def _pool(task: Task, by_fold: Sequence[tuple[Fold, dict[str, Result]]], key: str, judging: Judging) -> Result:
    """The result of one model on all rows, each as its own fold decided it."""
    found = [(fold, results[key]) for fold, results in by_fold]
    first = found[0][1]
    judged = np.unique(np.concatenate([fold.test for fold, _ in found]))
    decided = gather([(fold.test, result.decided) for fold, result in found])
    groups = None if task.groups is None else task.groups[judged]
    test = judge_rows(task.target.take(judged), take(decided, judged), first.decisions, judging, groups)
    return Result(
        first.name, first.decisions, decided, {"val": _mean_val([result for _, result in found]), "test": test}
    )


def _mean_val(results: Sequence[Result]) -> PartResult:
    """The metrics of the validation rows, mean over the folds; a row that validates in several folds counts in each."""
    found = [result.parts["val"].evaluation for result in results]
    values = {name: float(np.mean([one.values[name] for one in found])) for name in found[0].values}
    rows = sum(one.rows for one in found)
    class_rows = tuple(np.sum([one.class_rows for one in found], axis=0).tolist())
    return PartResult(
        replace(found[0], values=values, rows=rows, class_rows=class_rows, confusion=None, notes=()), None
    )


def _decisions(
    task: Task, held_out: Sequence[tuple[Codes, Doubles]], quantiles: tuple[float, ...], judging: Judging
) -> Decisions:
    """For new rows: from all validation rows, each with what the model that held it out said of it."""
    rows = np.concatenate([positions for positions, _ in held_out])
    outputs = np.concatenate([values for _, values in held_out])
    strata = task.stratum_names
    return fit_decisions(
        task.target.take(rows),
        outputs,
        replace(judging.decisions, prior="none"),
        strata=None if strata is None else [strata[row] for row in rows],
        quantiles=quantiles,
    )
