"""What a running fit tells: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

from heads.fitting import Progress

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def told(text: str, stream: TextIO | None = None) -> Iterator[Progress]:
    """Yield what is told how much is done, of how much (0 where nobody knows); `text` says of what.

    Written to standard error.
    """
    stream = stream or sys.stderr
    if not stream.isatty():
        yield _Lines(text, stream)
        return
    with tqdm(total=0, desc=text, leave=False, file=stream) as bar:

        def reach(done: int, total: int, words: str) -> None:
            bar.total, bar.n = total or None, done
            bar.set_description_str(f"{text}: {words}" if words else text)

        yield reach


class _Lines:
    """A line now and then, such as ``mlp head: 3 of 20, epoch 3, val AUPRC 0.412``."""

    def __init__(self, text: str, stream: TextIO) -> None:
        self.text, self.stream = text, stream
        self.told = time.monotonic()

    def __call__(self, done: int, total: int, words: str) -> None:
        if time.monotonic() - self.told < SECONDS_BETWEEN_LINES:
            return
        self.told = time.monotonic()
        reached = f"{done:,} of {total:,}" if total else f"{done:,}"
        print(f"{self.text}: {reached}{f', {words}' if words else ''}", file=self.stream, flush=True)
