"""How fast an extraction was, and what it waited for; kept in the store as a list with one entry a run."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedcache.counted import counted
from embedcache.progress import duration
from embedcache.storage.layout import StorePaths

if TYPE_CHECKING:
    from embedcache.encoders.encoder import Budget, Encoder
    from embedcache.encoders.fidelity import Fidelity
    from embedcache.extraction.window import Copied


@dataclass
class Throughput:
    """One run's count of work and time; only what it encoded itself, not what was there already."""

    started_at_utc: str
    host: str
    unit: str = "tokens"
    """What is counted as a token: ``letters`` for k-mers and one-hot."""
    rows: int = 0
    tokens: int = 0
    """Real tokens of all rows; there are no padding tokens."""
    distinct_sequences: int = 0
    encoded_rows: int = 0
    identical_rows: int = 0
    """Copied from another row of the store, which has the same sequence."""
    kept_rows: int = 0
    """In the store before, in a shard that had grown and was written again."""
    reused: dict[str, int] = field(default_factory=dict)
    """Rows copied from each other store."""
    damaged: list[str] = field(default_factory=list)
    """Shards of other stores whose rows could not be copied, one sentence each."""
    overlong: int = 0
    unknown_letters: int = 0
    wordless: int = 0
    """Rows of which the encoder sees special tokens alone, as of a sequence shorter than its k-mers."""
    set_aside: int = 0
    seconds: float = 0.0
    """Wall time from the end of the pre-flight."""
    tokenizer_seconds: float = 0.0
    """Spent waiting for reading and tokenizing."""
    compute_seconds: float = 0.0
    writer_seconds: float = 0.0
    """Spent waiting for the writer."""
    tokens_per_second: float = 0.0
    encoded_tokens: int = 0
    """Tokens that went through the encoder: those of distinct sequences."""
    passages: int = 0
    """Sequences that went through the encoder: distinct ones, or what was cut out of them."""
    tera_flops: float = 0.0
    matrix_fraction: float | None = None
    """Model arithmetic a second over the machine's own matrix rate at this precision, both measured in this run."""
    batch_tokens: int = 0
    memory_halvings: int = 0
    fidelity: Fidelity | None = None
    """How close the run's precision came to float32; None for a run in float32."""
    _began: float = field(default_factory=time.perf_counter, repr=False)

    def add(self, rows: int, counts: dict[str, int], set_aside: int, copied: Copied) -> None:
        """Count one shard."""
        self.encoded_rows += copied.encoded
        self.identical_rows += copied.identical
        self.kept_rows += copied.kept
        for store, count in copied.rows_of.items():
            self.reused[store] = self.reused.get(store, 0) + count
        self.rows += rows
        self.tokens += counts["tokens"]
        self.distinct_sequences += counts["distinct_sequences"]
        self.overlong += counts["overlong"]
        self.unknown_letters += counts["unknown_letters"]
        self.wordless += counts.get("wordless", 0)  # which older commit records do not have
        self.set_aside += set_aside

    def finish(self, encoder: Encoder, budget: Budget) -> None:
        """Take the time, and hold the arithmetic against the machine's limit."""
        self.seconds = time.perf_counter() - self._began
        self.tokens_per_second = self.tokens / self.seconds if self.rows else 0.0
        self.batch_tokens, self.memory_halvings = budget.tokens, budget.halvings
        flops = encoder.flops(self.encoded_tokens, self.encoded_tokens / self.passages) if self.passages else 0.0
        self.tera_flops = flops / self.seconds / 1e12
        if flops and self.seconds > 1.0:
            self.matrix_fraction = flops / self.seconds / encoder.matrix_rate()

    def to_dict(self) -> dict[str, Any]:
        """All figures, rounded."""
        figures = {key: value for key, value in asdict(self).items() if not key.startswith("_")}
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}

    def __str__(self) -> str:
        if not self.rows:
            return "nothing was left to encode"
        parts = [
            f"{counted(self.rows, 'row')}, {self.tokens:,} {self.unit} in {duration(self.seconds)}: "
            f"{self.rows / self.seconds:,.1f} rows/s, {self.tokens_per_second:,.0f} {self.unit}/s"
        ]
        if self.matrix_fraction is not None:
            parts.append(f"{self.matrix_fraction:.0%} of this machine's matrix limit ({self.tera_flops:.2f} TFLOP/s)")
        parts.append(
            f"waited {duration(self.tokenizer_seconds)} for reading and tokenizing, "
            f"{duration(self.writer_seconds)} for writing; computed {duration(self.compute_seconds)}"
        )
        if self.encoded_rows < self.rows - self.set_aside:
            parts += [
                f"{counted(self.encoded_rows, 'row was', 'rows were')} encoded",
                *([f"{counted(self.kept_rows, 'was', 'were')} there before"] if self.kept_rows else []),
                *(
                    [f"{counted(self.identical_rows, 'has', 'have')} the sequence of another row"]
                    if self.identical_rows
                    else []
                ),
                *(f"{rows:,} were reused from {store}" for store, rows in self.reused.items()),
            ]
        parts += [f"caution: {damage}, so its rows were encoded" for damage in self.damaged]
        if self.wordless:
            parts.append(
                f"caution: {counted(self.wordless, 'row has', 'rows have')} a sequence too short for a token of its own and "
                "the same vector as any other such"
            )
        if self.fidelity is not None:
            parts.append(str(self.fidelity))
        if self.memory_halvings:
            parts.append(
                f"memory ran out {counted(self.memory_halvings, 'time')}: give --batch-tokens {self.batch_tokens} next time"
            )
        return "\n".join(parts)


def read_throughput(store: str | Path) -> list[dict[str, Any]]:
    """Read the figures of all runs that wrote to a store; empty if there are none."""
    try:
        runs: list[dict[str, Any]] = json.loads(StorePaths(store).throughput.read_bytes())
    except (OSError, ValueError):
        return []
    return runs
