"""Multilayer perceptrons on standardised features, for classes, labels and measured quantities: the grid, and its best.

Axes: N rows, L labels, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch

from embedcache.encoders.linear import product_type
from embedcache.errors import HeadError
from embedcache.search.standardising import standardise
from heads.data.features import Standardisation
from heads.data.sampling import EpochSampler, sampled_shares
from heads.data.standardised_rows import StandardisedRows
from heads.data.target import Examples
from heads.data.weights import class_weights, weights_of
from heads.fitting import Fitted, Problem, Progress, Record
from heads.head import Head
from heads.judging.metrics import better, score
from heads.perceptron.ensemble import EnsembleModel
from heads.perceptron.losses import Loss
from heads.perceptron.mixup import Mixup
from heads.perceptron.mlp_model import MLPModel
from heads.perceptron.mlp_options import MLPOptions
from heads.perceptron.mlp_training import Part, Regime, Setting, Stack, Trained
from heads.perceptron.perceptrons import Perceptrons

__all__ = ["MLPModel", "MLPOptions", "fit"]

STACKED_WEIGHTS = 2**28
"""Weights of all heads that train at once on a GPU: with their gradients, moments and best epoch 5 GB."""


def fit(
    problem: Problem, options: MLPOptions, start: MLPModel | None = None, *, heads_at_once: int | None = None
) -> Fitted:
    """Train the grid and keep the best of it by the validation rows; with none, the first point.

    The rows that stop (`Problem.stopping`) choose the epoch of each point; with none it is the last.

    On a GPU the whole grid trains at once, on a CPU one head after another; the heads are the same.

    Parameters
    ----------
    start : a head that every point of the grid goes on from, with its standardisation
    heads_at_once : points of the grid that train as one stack; by default one on a CPU, all that fit on a GPU

    Raises
    ------
    HeadError : an option cannot be, `start` has other shapes, a loss or a feature is not a finite number.
    """
    options.check()
    regime, standardisation = prepare(problem, options, start)
    settings = options.grid()
    sizes = _sizes(problem, options, regime)
    if start is None and options.freeze != "none":
        raise HeadError("--freeze hidden keeps the hidden layers of another head: name its run with --init")
    weights = sum(wide * narrow for wide, narrow in pairwise(sizes))
    at_once = heads_at_once or (1 if problem.device.type == "cpu" else max(1, STACKED_WEIGHTS // weights))
    trained: list[Trained] = []
    for first in range(0, len(settings), at_once):
        part = settings[first : first + at_once]
        heads = first_heads(problem, options, regime, part, start)
        trials = range(first, first + len(part))
        told = _teller(problem.progress, trials, len(settings), options.epochs)
        trained += Stack(heads, part, regime, problem.seed, trials).train(told)
    return _choose(problem, options, regime, standardisation, trained)


def _teller(progress: Progress, trials: range, of: int, epochs: int) -> Callable[[int, str], None]:
    """What tells of the epochs of a stack as a part of the whole grid."""
    heads = f"head {trials[0] + 1}" if len(trials) == 1 else f"heads {trials[0] + 1} to {trials[-1] + 1}"

    def told(epoch: int, text: str) -> None:
        progress(trials[0] * epochs + len(trials) * epoch, of * epochs, f"{heads} of {of}, {text}")

    return told


def first_heads(
    problem: Problem, options: MLPOptions, regime: Regime, settings: Sequence[Setting], start: MLPModel | None
) -> Perceptrons:
    """The heads before their first step, one for each setting: drawn, or copies of one to go on from.

    Raises HeadError where `start` has other shapes or learned another target.
    """
    sizes = _sizes(problem, options, regime)
    if start is None:
        return _drawn(sizes, problem.seed, settings, _prior(problem, options, regime))
    _check_start(start, sizes, regime.loss)
    return _copies(start, len(settings))


def _sizes(problem: Problem, options: MLPOptions, regime: Regime) -> tuple[int, ...]:
    return (problem.source.dim, *options.hidden, regime.loss.outputs(problem.target.outputs))


def prepare(problem: Problem, options: MLPOptions, start: MLPModel | None) -> tuple[Regime, Standardisation]:
    """How heads are trained and on what, and the standardisation of the features, that of `start` where there is one."""
    train, kind = problem.train, problem.target.kind
    levels = tuple(sorted(options.quantiles))
    loss = Loss(
        kind, options.loss or ("pinball" if levels else "mse"), options.focal_gamma, options.label_smoothing, levels
    )
    standardisation = standardise(problem.source, train.rows) if start is None else start.standardisation
    scale, shift = 1.0, 0.0
    if kind == "regression":
        values_N = train.target.values.astype(np.float64)
        scale, shift = float(values_N.std()) or 1.0, float(values_N.mean())
    if start is not None and loss.regression != "correlation":
        scale, shift = start.scale or 1.0, start.shift
    table = class_weights(train.target, options.class_weight)
    mean_weight = float(weights_of(train.target, table, train.weights).mean())
    mixup = Mixup(options.mixup_alpha, options.mixup_probability)
    product = product_type(torch.bfloat16, problem.device)
    drawn = torch.float32 if mixup.active else product  # what is mixed is rounded after that

    def part(examples: Examples, memory_bytes: int) -> Part:
        rows = StandardisedRows(problem.source, examples.rows, standardisation, problem.device, memory_bytes, drawn)
        values = examples.target.values
        if kind == "regression":
            values = (values.astype(np.float64) - shift) / scale
        weights = weights_of(examples.target, table, examples.weights) / mean_weight
        return Part(
            rows,
            examples.target,
            torch.from_numpy(np.asarray(values, np.float32 if kind == "regression" else np.int64)).to(problem.device),
            torch.from_numpy(weights.astype(np.float32)).to(problem.device),
        )

    training = part(train, problem.memory_bytes)
    left = problem.memory_bytes - training.rows.kept_bytes
    validating = part(problem.val, left)
    left -= validating.rows.kept_bytes
    regime = Regime(
        training,
        validating,
        problem.of_stopping(training, validating, lambda examples: part(examples, left)),
        loss,
        EpochSampler(train, options.sampler),
        mixup,
        problem.select,
        scale,
        shift,
        options.epochs,
        options.batch_size,
        options.schedule,
        options.warmup,
        options.patience,
        options.freeze == "hidden",
        options.layer_lr_decay,
        product,
    )
    return regime, standardisation


def _check_start(start: MLPModel, sizes: tuple[int, ...], loss: Loss) -> None:
    if start.perceptron.sizes != sizes:
        theirs, ours = (" x ".join(map(str, shape)) for shape in (start.perceptron.sizes, sizes))
        raise HeadError(
            f"the head to start from is {theirs} (features, hidden layers, outputs) and this one is {ours}: give the same "
            "--hidden, on features of the same width, for as many classes"
        )
    if (start.target, start.quantiles) != (loss.target, loss.quantiles):
        theirs, ours = (
            f"{kind} {','.join(f'{level:g}' for level in levels)}".strip()
            for kind, levels in ((start.target, start.quantiles), (loss.target, loss.quantiles))
        )
        raise HeadError(f"the head to start from learned another target ({theirs}) than this one ({ours})")


def _drawn(sizes: tuple[int, ...], seed: int, settings: Sequence[Setting], bias_O: torch.Tensor) -> Perceptrons:
    seeds = [int(np.random.SeedSequence([seed, setting.seed]).generate_state(1)[0]) for setting in settings]
    heads = Perceptrons.drawn(sizes, [torch.Generator().manual_seed(one) for one in seeds])
    with torch.no_grad():
        heads.biases[-1].copy_(bias_O)
    return heads


def _copies(start: MLPModel, heads: int) -> Perceptrons:
    return Perceptrons(
        [weight.detach().repeat(heads, 1, 1) for weight in start.perceptron.weights],
        [bias.detach().repeat(heads, 1, 1) for bias in start.perceptron.biases],
    )


def _prior(problem: Problem, options: MLPOptions, regime: Regime) -> torch.Tensor:
    """Bias (O,) of the output layer that gives the shares of the classes, or the quantiles of the quantity, from the start.

    Without it a training on rare positives begins by unlearning that half of all rows are positive (Lin et al., 2017).
    """
    train, kind = problem.train, problem.target.kind
    if kind == "regression":
        values_N = regime.train.values.cpu().double().numpy()
        return torch.tensor(np.quantile(values_N, regime.loss.quantiles or (0.5,)), dtype=torch.float32)
    if kind == "multilabel":
        weights_NL = regime.train.weights.cpu().double().numpy()
        shares = (weights_NL * train.target.values).sum(0) / np.maximum(weights_NL.sum(0), 1e-12)
    else:
        shares = sampled_shares(train, options.class_weight, options.sampler)
    least = 0.5 / len(train)  # half a row, for classes that have none
    shares = shares.clip(least, 1 - least)
    if kind == "multiclass":
        return torch.from_numpy(np.log(shares)).float()
    odds = (shares[1:] if kind == "binary" else shares) / (1 - shares[1:] if kind == "binary" else 1 - shares)
    return torch.from_numpy(np.log(odds)).float()


def _choose(
    problem: Problem,
    options: MLPOptions,
    regime: Regime,
    standardisation: Standardisation,
    trained: Sequence[Trained],
) -> Fitted:
    at_rest = standardisation.on("cpu")
    kind, levels, metric = problem.target.kind, regime.loss.quantiles, f"val_{problem.select}"
    models = [MLPModel(at_rest, one.perceptron.cpu(), kind, levels, one.scale, one.shift) for one in trained]
    trials: list[Record] = [
        {
            "seed": setting.seed,
            "lr": setting.lr,
            "weight_decay": setting.weight_decay,
            "dropout": setting.dropout,
            metric: one.value,
            regime.stopping_metric: one.stop_value,
            "best_epoch": one.epoch,
            "epochs": one.epochs,
        }
        for setting, one in zip(options.grid(), trained, strict=True)
    ]
    heads: list[Head] = list(models)
    first = 0
    if options.ensemble:
        first, seeds = len(models), len(options.seeds)
        for start in range(0, len(models), seeds):
            together = EnsembleModel(tuple(models[start : start + seeds]))
            value = float("nan")
            if len(problem.val):
                outputs = together(problem.source, problem.val.rows, problem.device)
                value = score(problem.val.target, outputs, problem.select, levels)
            heads.append(together)
            of_members = {"best_epoch": None, "epochs": None}
            if regime.stops_apart:
                of_members[regime.stopping_metric] = None
            trials.append({**trials[start], "seed": "all", metric: value, **of_members})
    values = [float(trial[metric] or 0) for trial in trials]
    best = first
    for other in range(first, len(heads)):
        if better(problem.select, values[other], values[best]):
            best = other
    history = tuple(record for one in trained for record in one.history)
    return Fitted(heads[best], tuple(trials), best, history, _notes(problem, options, trials[best], values[best]))


def _notes(problem: Problem, options: MLPOptions, chosen: Record, value: float) -> tuple[str, ...]:
    if not len(problem.val):
        return ()
    if not np.isfinite(value):
        return (f"{problem.select} is not defined on the validation rows: the last epoch of the first point was taken",)
    notes = []
    stop_value = chosen.get(f"stop_{problem.select}")
    if isinstance(stop_value, float) and not np.isfinite(stop_value):
        notes.append(f"{problem.select} is not defined on the rows that stop a fit: the last epoch was taken")
    # training rows are fitted the better the longer they train
    elif chosen["best_epoch"] == options.epochs > 1 and problem.stop is not problem.train:
        notes.append(f"the best epoch is the last of {options.epochs}: more --epochs may do better")
    for name, grid in (("lr", options.lr), ("weight_decay", options.weight_decay), ("dropout", options.dropout)):
        if len(grid) > 1 and chosen[name] in (min(grid), max(grid)):
            side = "smallest" if chosen[name] == min(grid) else "largest"
            option = name.replace("_", "-")
            notes.append(f"the best --{option} ({chosen[name]:g}) is the {side} of the grid: a wider one may do better")
    return tuple(notes)
