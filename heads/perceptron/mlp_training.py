"""Training of multilayer perceptrons: a stack of heads, each with its own seed, learning rate, decay and dropout.

A head has its own random streams (start, order of the rows, mixtures, dropout), so that it comes out the same alone and
in a stack; one that has stopped stays in the stack unheeded until all have. Stacks are for a GPU; on a CPU wide heads are
faster one after another (measured/heads.md, section 2).

Axes: H heads of the stack, N rows, n rows of a batch, D features, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from embedcache.errors import HeadError
from heads.data.features import Rows
from heads.data.sampling import EpochSampler
from heads.data.standardised_rows import StandardisedRows
from heads.data.target import Target
from heads.fitting import Record
from heads.judging.metrics import better, score
from heads.perceptron.adamw import StackedAdamW
from heads.perceptron.early_stopping import EarlyStopping
from heads.perceptron.losses import Loss, predictions
from heads.perceptron.mixup import Mixup
from heads.perceptron.perceptrons import Dropout, Perceptrons
from heads.perceptron.schedule import Schedule, rate

RESCALING_ROWS = 4096
"""Training rows that the scale of a head of the correlation loss is taken from, which it does not learn itself."""


@dataclass(frozen=True)
class Setting:
    """One point of the grid."""

    seed: int
    lr: float
    weight_decay: float
    dropout: float


@dataclass(frozen=True)
class Part:
    """Training rows, or rows that choose, with what is to be learned of them."""

    rows: StandardisedRows
    target: Target
    values: torch.Tensor
    """(N,) or (N, L) class codes, or values in deviations from their mean."""
    weights: torch.Tensor
    """Of the loss, as `values`."""

    def __len__(self) -> int:
        return len(self.target)

    def truth(self, loss: Loss, positions: torch.Tensor | slice) -> torch.Tensor:
        """Truth vectors (`heads.perceptron.losses`) of some of the rows."""
        return loss.truth(self.values[positions], self.weights[positions], len(self.target.names))


@dataclass(frozen=True)
class Regime:
    """How all heads of a fit are trained, and on what."""

    train: Part
    val: Part
    stop: Part
    """By its rows an epoch is the best and a head stops: `val`, `train`, or one of its own. With none the last is kept."""
    loss: Loss
    sampler: EpochSampler
    mixup: Mixup
    select: str
    scale: float
    """A measured quantity is learned as (value - shift) / scale."""
    shift: float
    epochs: int
    batch_size: int
    schedule: Schedule
    warmup: float
    patience: int
    frozen: bool
    """Whether only the output layer learns."""
    layer_lr_decay: float
    product: torch.dtype
    """What a layer multiplies in."""

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.train) // self.batch_size)

    @property
    def stops_apart(self) -> bool:
        """Whether other rows than the validation rows stop the heads."""
        return self.stop is not self.val

    @property
    def stopping_metric(self) -> str:
        """What the history calls the metric that stops."""
        return f"{'stop' if self.stops_apart else 'val'}_{self.select}"

    def metric(self, part: Part, scores_NO: torch.Tensor, scale: float, shift: float) -> float:
        """The metric that selects, of the scores of a part; NaN of no rows."""
        if not len(part):
            return float("nan")
        outputs = predictions(self.loss.target, scores_NO.double() * scale + shift).cpu().numpy()
        return score(part.target, outputs, self.select, self.loss.quantiles)


@dataclass(frozen=True)
class Trained:
    """One head at its best epoch; scores times `scale` plus `shift` are in the units of the target."""

    perceptron: Perceptrons
    scale: float
    shift: float
    epoch: int
    epochs: int
    """Epochs that were trained."""
    value: float
    """The metric on the validation rows, NaN without any."""
    stop_value: float
    """The metric on the rows that stop."""
    history: tuple[Record, ...]


class Stack:
    """Heads of one shape in training.

    Parameters
    ----------
    start : the stack before its first step
    settings : one for each head of it
    trials : what the heads are called in the history
    """

    def __init__(
        self, start: Perceptrons, settings: Sequence[Setting], regime: Regime, seed: int, trials: Sequence[int]
    ) -> None:
        device = regime.train.rows.device
        self.regime = regime
        self.settings = settings
        self.trials = trials
        self.heads = start.to(device)
        streams = [np.random.SeedSequence([seed, setting.seed]).spawn(2) for setting in settings]
        self._randoms = [np.random.default_rng(order) for order, _ in streams]
        generators = [torch.Generator(device).manual_seed(int(drop.generate_state(1)[0])) for _, drop in streams]
        self._dropout = Dropout([setting.dropout for setting in settings], generators)
        self._optimizer = self._make_optimizer()
        self._share = 0.0
        self._stops = [EarlyStopping(regime.select, regime.patience) for _ in settings]
        self._best: list[Trained | None] = [None] * len(settings)
        self._history: list[list[Record]] = [[] for _ in settings]

    def train(self, told: Callable[[int, str], None]) -> list[Trained]:
        """Train all heads to their end; `told` hears the epoch and a few words after each.

        Raises HeadError where a loss or a validation row is not a finite number.
        """
        for epoch in range(1, self.regime.epochs + 1):
            losses_H = self._train_epoch(epoch)
            self._judge(epoch, losses_H)
            rows, _, metric = self.regime.stopping_metric.partition("_")
            told(epoch, f"epoch {epoch}, {rows} {metric.upper()} {self._last_best():.4f}")
            if all(stop.stopped for stop in self._stops):
                break
        return [self._finished(head) for head in range(len(self.settings))]

    def _last_best(self) -> float:
        """The best of the heads' last values."""
        best = float("nan")
        for records in self._history:
            value = float(records[-1][self.regime.stopping_metric] or 0)
            best = value if better(self.regime.select, value, best) else best
        return best

    def _train_epoch(self, epoch: int) -> torch.Tensor:
        """One pass over the training rows; returns the mean loss of each head, (H,)."""
        regime = self.regime
        trained, steps = regime.steps * (epoch - 1), regime.steps * regime.epochs
        total_H = torch.zeros(len(self.settings), device=self._device)
        for batch, (values_HnD, truth) in enumerate(self._batches()):
            self._share = rate(regime.schedule, trained + batch, steps, regime.warmup)
            with self._precision():
                scores_HnO = self.heads(values_HnD, self._dropout)
            losses_H = regime.loss(scores_HnO.float(), truth)
            losses_H.sum().backward()  # type: ignore[no-untyped-call]
            self._optimizer.step(self._share)
            total_H += losses_H.detach()
        means_H = (total_H / regime.steps).cpu()
        for head, (setting, stop) in enumerate(zip(self.settings, self._stops, strict=True)):
            finite = all(torch.isfinite(tensor[head]).all() for tensor in (means_H, *self.heads.parameters()))
            if not finite and not stop.stopped:
                raise HeadError(
                    f"the training loss is not a finite number in epoch {epoch} at --lr {setting.lr:g}: give a lower --lr"
                )
        return means_H

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Features (H, n, D) and truth vectors (H, n, ...) of an epoch, batches of equal size give or take one row."""
        regime, heads = self.regime, len(self.settings)
        orders_HN = np.stack([regime.sampler.draw(random) for random in self._randoms])
        for positions_Hn in np.array_split(orders_HN, regime.steps, axis=1):
            positions = positions_Hn.ravel()
            values_HnD = regime.train.rows.take(positions).view(heads, -1, regime.train.rows.source.dim)
            where = torch.from_numpy(positions).to(self._device)
            truth = regime.train.truth(regime.loss, where)
            yield self._mixed(values_HnD, truth.view(heads, -1, *truth.shape[1:]))

    def _mixed(self, values_HnD: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.regime.mixup.active:
            return values_HnD, truth
        for head, random in enumerate(self._randoms):
            mix = self.regime.mixup.draw(values_HnD.shape[1], random)
            partners_n = torch.from_numpy(mix.partners).to(self._device)
            for batch in (values_HnD, truth):
                batch[head] = mix.share * batch[head] + (1 - mix.share) * batch[head, partners_n]
        return values_HnD, truth

    def _make_optimizer(self) -> StackedAdamW:
        """Every layer that learns; biases do not decay."""
        optimizer = StackedAdamW()
        last = len(self.heads.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.heads.weights, self.heads.biases, strict=True)):
            if self.regime.frozen and layer < last:
                weight.requires_grad_(False)
                bias.requires_grad_(False)
                continue
            share = self.regime.layer_lr_decay ** (last - layer)
            lr_H = [setting.lr * share for setting in self.settings]
            optimizer.add(weight, lr_H, [setting.weight_decay for setting in self.settings])
            optimizer.add(bias, lr_H, [0.0] * len(lr_H))
        return optimizer

    @torch.no_grad()
    def _judge(self, epoch: int, losses_H: torch.Tensor) -> None:
        """Note an epoch in the history of the heads that are still in training, and keep those that are at their best."""
        regime = self.regime
        scores_HNO = self._scores(regime.val)
        stop_HNO = self._scores(regime.stop) if regime.stops_apart else scores_HNO
        val_losses_H = torch.full((len(self.settings),), torch.nan)
        if len(regime.val):
            val_losses_H = regime.loss(scores_HNO, regime.val.truth(regime.loss, slice(None))[None]).cpu()
        rescalings = self._rescalings()
        for head, (setting, stop) in enumerate(zip(self.settings, self._stops, strict=True)):
            if stop.stopped:
                continue
            scale, shift = rescalings[head]
            value = stop_value = regime.metric(regime.val, scores_HNO[head], scale, shift)
            if regime.stops_apart:
                stop_value = regime.metric(regime.stop, stop_HNO[head], scale, shift)
            self._history[head].append(
                {
                    "trial": self.trials[head],
                    "epoch": epoch,
                    "train_loss": float(losses_H[head]),
                    "val_loss": float(val_losses_H[head]),
                    f"val_{regime.select}": value,
                    regime.stopping_metric: stop_value,
                    "lr": setting.lr * self._share,
                }
            )
            if stop.update(epoch, stop_value) or stop.epoch is None:
                self._best[head] = Trained(self.heads.head(head), scale, shift, epoch, epoch, value, stop_value, ())

    def _scores(self, part: Part, positions: Rows | None = None) -> torch.Tensor:
        """Scores (H, N, O) of all rows of a part, or of some."""
        blocks = part.rows.blocks() if positions is None else [part.rows.take(positions)]
        scores = [torch.empty(len(self.settings), 0, self.heads.sizes[-1], device=self._device)]
        for values_nD in blocks:
            with self._precision():
                scores.append(self.heads(values_nD.expand(len(self.settings), -1, -1)).float())
        scores_HNO = torch.cat(scores, dim=1)
        # of every head: one that has stopped may have gone astray since
        bad_N = (~torch.isfinite(scores_HNO)).any(2).all(0)
        if bad_N.any():
            row = int(part.rows.rows[int(bad_N.nonzero()[0])])
            raise HeadError(
                f"the features of row {row} are not finite numbers, or far from those of all training rows, or --lr is too "
                "high"
            )
        return scores_HNO

    def _rescalings(self) -> list[tuple[float, float]]:
        """Scale and shift of each head's scores: those of the target; of the correlation loss those that fit it best."""
        regime = self.regime
        if regime.loss.regression != "correlation" or regime.loss.target != "regression":
            return [(regime.scale, regime.shift)] * len(self.settings)
        positions = np.arange(0, len(regime.train), -(-len(regime.train) // RESCALING_ROWS))
        truth_n = regime.train.values[torch.from_numpy(positions).to(self._device)].double()
        scores_Hn = self._scores(regime.train, positions)[..., 0].double()
        return [rescaling(scores_n, truth_n, regime.scale, regime.shift) for scores_n in scores_Hn]

    def _finished(self, head: int) -> Trained:
        best, history = self._best[head], self._history[head]
        assert best is not None
        return replace(best, epochs=len(history), history=tuple(history))

    @property
    def _device(self) -> torch.device:
        return self.regime.train.rows.device

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self.regime.product == torch.bfloat16)


def rescaling(scores_n: torch.Tensor, truth_n: torch.Tensor, scale: float, shift: float) -> tuple[float, float]:
    """Scale and shift that bring scores closest to values, which are themselves (quantity - shift) / scale."""
    spread = float(scores_n.var(correction=0))
    slope = float(torch.mean((scores_n - scores_n.mean()) * (truth_n - truth_n.mean()))) / max(spread, 1e-12)
    offset = float(truth_n.mean() - slope * scores_n.mean())
    return slope * scale, offset * scale + shift
