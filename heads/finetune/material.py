"""What the encoder reads in a fine-tuning, made once for all trainings of a run: tokens, and states below the layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from embedcache.encoders.transformer import TransformerEncoder
from embedcache.encoding import Encoding
from embedcache.progress import Progress
from embedcache.storage.positionstore import PositionStore
from embedcache.storage.store import Store, open_store
from heads.data.features import Rows
from heads.finetune.batch import StateSource
from heads.finetune.options import FinetuneOptions
from heads.finetune.positions import Positions
from heads.finetune.processes import Processes
from heads.finetune.states import ComputedStates, StoredStates, store_states
from heads.finetune.tokens import TokenRows

STATES = "states.zarr"


@dataclass(frozen=True)
class Material:
    """The rows of a run, before any training."""

    store: Store
    rows: Rows
    """Those that take part, rising."""
    encoding: Encoding
    options: FinetuneOptions
    work: Path
    """The folder of the run's training."""
    processes: Processes
    progress: Progress

    @cached_property
    def letters(self) -> Positions | None:
        """The rows that are letters, and the tokens of their records; None where rows are records."""
        return Positions.read(self.store, self.rows, self.encoding) if isinstance(self.store, PositionStore) else None

    @cached_property
    def tokens(self) -> TokenRows:
        """Of all rows, or of the records of all letters."""
        return TokenRows.read(self.store, self.rows, self.encoding) if self.letters is None else self.letters.rows

    def states(self, layer: int) -> StateSource | None:
        """What gives the states that the trained layers start from; None where they start from tokens."""
        if self.options.mode != "top":
            return None
        encoder = self.encoding.encoder
        assert isinstance(encoder, TransformerEncoder)
        if not self.options.caches:
            return ComputedStates(encoder, layer)
        place = self.work / STATES
        with self.processes.first_does() as mine:
            if mine:
                store_states(place, self.tokens, encoder, layer, self.options.cache_dtype, self.progress)
        return StoredStates(open_store(place), self.tokens, self.processes.device)
