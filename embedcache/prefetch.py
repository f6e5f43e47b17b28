"""An iterator that works one element ahead of its consumer, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Queue
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Prefetched(Generic[_T]):
    """An iterator run one element ahead by its own thread; `waited` counts the seconds its consumer had to wait."""

    _END = object()

    def __init__(self, source: Iterator[_T]) -> None:
        self._queue: Queue[object] = Queue(maxsize=1)
        self._source, self._stopped = source, threading.Event()
        self._thread = threading.Thread(target=self._fill, name="reader", daemon=True)
        self.waited = 0.0
        self._thread.start()

    def _fill(self) -> None:
        last: object = self._END
        try:
            for item in self._source:
                self._queue.put(item)
                if self._stopped.is_set():
                    return
        except BaseException as error:  # handed to the consumer, which raises it
            last = error
        self._queue.put(last)

    def __iter__(self) -> Iterator[_T]:
        while True:
            start = time.perf_counter()
            item = self._queue.get()
            self.waited += time.perf_counter() - start
            if item is self._END:
                return
            if isinstance(item, BaseException):
                raise item
            yield item  # type: ignore[misc]

    def close(self) -> None:
        """Let the thread end at its next element."""
        self._stopped.set()
        while self._thread.is_alive():
            with suppress(Exception):
                self._queue.get(timeout=0.05)


@contextmanager
def prefetched(source: Iterator[_T]) -> Iterator[Prefetched[_T]]:
    prefetched = Prefetched(source)
    try:
        yield prefetched
    finally:
        prefetched.close()
