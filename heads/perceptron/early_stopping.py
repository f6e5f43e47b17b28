"""When a fit stops, and which of its epochs is kept: both by one metric on rows that do not judge."""

from __future__ import annotations

from heads.judging.metrics import better


class EarlyStopping:
    """Keeps the first of the best epochs; stops after `patience` epochs that were no better, 0 never stops.

    A metric that is not a number (AUPRC of rows of one class, say) is no epoch's best and stops nothing.
    """

    def __init__(self, metric: str, patience: int) -> None:
        self.metric = metric
        self.patience = patience
        self.epoch: int | None = None
        """The best so far, counted as `update` was told."""
        self.value = float("nan")
        self.stopped = False

    def update(self, epoch: int, value: float) -> bool:
        """Take note of an epoch; True where it is the best so far."""
        if better(self.metric, value, self.value):
            self.epoch, self.value = epoch, value
            return True
        if self.epoch is not None and self.patience and epoch - self.epoch >= self.patience:
            self.stopped = True
        return False
