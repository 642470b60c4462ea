"""A series as a pipeline: while one slice goes through the network, the next one is made ready.

What it is made ready from is an iterator's business, so that nothing is held but the slice that is being made ready and the one
that was handed out.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item], cancelled: threading.Event | None = None) -> Generator[Item, None, None]:
    """The same items in the same order; while the caller is busy with one, the next one is made in another thread.

    Never more than one is made ahead, and none after the caller has stopped asking. What making an item raises is raised where
    the item would have come.

    Parameters
    ----------
    cancelled
        Once it is set, no other item comes.
    """
    making = iter(items)
    with ThreadPoolExecutor(1, "ahead") as worker:
        waiting: Future[list[Item]] = worker.submit(_next, making)
        while (found := waiting.result()) and not (cancelled is not None and cancelled.is_set()):
            waiting = worker.submit(_next, making)
            yield found.pop()


def _next(making: Iterator[Item]) -> list[Item]:
    """The next item in a list, or an empty one: a future cannot carry StopIteration."""
    for item in making:
        return [item]
    return []


class Pace:
    """How long the rest of a series will take, judged by the slices before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._done = 0
        self._spent = 0.0

    def step(self) -> None:
        """One more slice is done."""
        self._done += 1
        self._spent = self._clock() - self._begun

    def seconds_left(self, slices: int) -> float | None:
        """For as many slices; None before the first one is done."""
        return self._spent / self._done * slices if self._done else None
