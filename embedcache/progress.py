"""What a running command tells: a bar where there is a terminal, a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Progress over tokens with rows a second beside it, or over rows; written to standard error.

    Parameters
    ----------
    quiet : say nothing at all.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None
        self._rows = 0.0
        self._tokens = self._total = 0
        self._unit = "tokens"
        self._started = self._told = time.monotonic()

    def say(self, line: str) -> None:
        """Print one line, above the bar if there is one."""
        if not self._quiet:
            tqdm.write(line, file=self._stream)
            self._stream.flush()

    def start(self, tokens: int, unit: str = "tokens") -> None:
        """Begin: `tokens` is the estimate of all that is to be done."""
        self._rows, self._tokens, self._total, self._unit = 0, 0, tokens, unit
        self._started = self._told = time.monotonic()
        if not self._quiet and self._stream.isatty():
            self._bar = tqdm(
                total=tokens, unit=f" {unit}", unit_scale=True, file=self._stream, dynamic_ncols=True, smoothing=0.1
            )

    def advance(self, tokens: int, rows: float) -> None:
        """Some rows, of so many tokens together, are encoded."""
        self._tokens += tokens
        self._rows += rows
        if self._bar is not None:
            if self._tokens > self._total:  # the estimate was low
                self._bar.total = self._tokens
            if self._unit != "rows":
                rate = self._rows / (time.monotonic() - self._started)
                self._bar.set_postfix_str(f"{rate:,.1f} rows/s", refresh=False)
            self._bar.update(tokens)
        elif time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            seconds = self._told - self._started
            left = max(self._total - self._tokens, 0) * seconds / max(self._tokens, 1)
            beside = "" if self._unit == "rows" else f"{self._rows / seconds:,.1f} rows/s  "
            self.say(
                f"{self._tokens / max(self._total, 1):4.0%}  {self._tokens / seconds:,.0f} {self._unit}/s  "
                f"{beside}{duration(left)} left"
            )

    def stop(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def duration(seconds: float) -> str:
    """Seconds as people write them: ``12 s``, ``3 min 20 s``, ``5 h 02 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes as people write them, in powers of 1,000: ``42 B``, ``1.5 MB``, ``2.6 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
