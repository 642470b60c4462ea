"""A series as a pipeline: while one slice goes through the network, the next one is made ready.

What it is made ready from is an iterator's business, so that nothing is held but the slice that is being made ready and the one
that was handed out.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(
    make: Callable[[Item], Made], items: Iterable[Item], cancelled: threading.Event | None = None, most: int = 1
) -> Generator[Made, None, None]:
    """What is made of the items, in their order; while the caller is busy with one, the next ones are made in other threads.

    Items are taken one at a time, and made `most` at a time. Never more than `most` are made ahead, and none after the caller
    has stopped asking. What taking or making an item raises is raised where the item would have come.

    Parameters
    ----------
    cancelled
        Once it is set, no other item comes.
    """
    left = iter(items)
    with ThreadPoolExecutor(most, "ahead") as makers, ThreadPoolExecutor(1, "taking") as taker:

        def begin() -> Future[Made] | None:
            for item in left:
                return makers.submit(make, item)
            return None  # a future cannot carry StopIteration

        waiting = deque(taker.submit(begin) for _ in range(most))
        while (making := waiting.popleft().result()) is not None:
            made = making.result()
            if cancelled is not None and cancelled.is_set():
                return
            waiting.append(taker.submit(begin))
            yield made


def in_groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """As many at a time; the last group may be smaller."""
    group: list[Item] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


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
