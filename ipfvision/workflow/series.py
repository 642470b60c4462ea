"""A series that is read in a thread of its own, so that whoever looks at it may come, go and ask for something else."""

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing

from ipfvision.core.slice import Slice
from ipfvision.nn.series import Pace
from ipfvision.workflow.reading import Reader, Reading

ALONE_SECONDS = 20.0
"""Nobody has asked for readings for so long: nobody is there any more."""


def left_words(seconds: float | None) -> str:
    """For the end of a line of progress; nothing if it is not known, or as good as over."""
    if seconds is None or seconds < 5:
        return ""
    return f", about {5 * round(seconds / 5)} s left" if seconds < 90 else f", about {round(seconds / 60)} min left"


class SeriesReading:
    """The reading of slices in the background, in the order of their numbers. It begins at once.

    It ends with the last slice, when it is cancelled, when nobody takes what was read, or with an error, which `take` raises.
    """

    def __init__(self, reader: Reader, slices: Mapping[int, Slice], method: str = "gradcam") -> None:
        """Slices have numbers, by which their readings are known."""
        self.method = method
        self._left = dict(slices)
        self._found: deque[tuple[int, Reading]] = deque()
        self._error: Exception | None = None
        self._over = False
        self._asked = time.monotonic()
        self._pace = Pace()
        self._cancelled = threading.Event()
        self._news = threading.Condition()
        threading.Thread(target=self._run, args=(reader,), name="series", daemon=True).start()

    @property
    def ended(self) -> bool:
        """Nothing more will come, and nothing is left to be taken."""
        with self._news:
            return self._over and not self._found and self._error is None

    @property
    def seconds_left(self) -> float | None:
        """Until the last slice is read; None before the first one is."""
        with self._news:
            return self._pace.seconds_left(len(self._left))

    def cancel(self) -> None:
        """Compute nothing more. A pass through the network that is under way comes to its end, unseen."""
        with self._news:
            self._cancelled.set()
            self._error = None

    def leave_out(self, number: int) -> None:
        """Somebody read one of the slices in another way."""
        with self._news:
            self._left.pop(number, None)

    def take(self, timeout: float = 0.0) -> list[tuple[int, Reading]]:
        """What was read since the last time, with the slices' numbers.

        Parameters
        ----------
        timeout
            Seconds to wait for something.
        """
        with self._news:
            self._asked = time.monotonic()
            self._news.wait_for(lambda: self._found or self._over, timeout)
            found = list(self._found)
            self._found.clear()
            if not found and self._error is not None:  # what was read before comes first
                error, self._error = self._error, None
                raise error
        return found

    def _slices(self, order: deque[int]) -> Iterator[Slice]:
        """Those that are left, one by one; their numbers go to `order`."""
        with self._news:
            numbers = sorted(self._left)
        for number in numbers:
            with self._news:
                scan = self._left.get(number)
            if scan is not None:
                order.append(number)
                yield scan

    def _run(self, reader: Reader) -> None:
        order: deque[int] = deque()
        try:
            with closing(reader.read_all(self._slices(order), self.method, self._cancelled)) as readings:
                for reading in readings:
                    if not self._keep(order.popleft(), reading):
                        break
        except Exception as error:  # noqa: BLE001  `take` raises it where it is seen
            with self._news:
                if not self._cancelled.is_set():  # nobody waits for what was cancelled
                    self._error = error
        with self._news:
            self._over = True
            self._left.clear()
            self._news.notify_all()

    def _keep(self, number: int, reading: Reading) -> bool:
        """Whether to go on."""
        with self._news:
            if self._cancelled.is_set():
                return False
            if self._left.pop(number, None) is not None:
                self._found.append((number, reading))
            self._pace.step()
            self._news.notify_all()
            return time.monotonic() - self._asked < ALONE_SECONDS
