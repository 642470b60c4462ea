"""Who computes next: one at a time, in a fair order, and a single slice before anybody's series.

Readers work in threads of their own, but a pass through the network has all cores (`ipfvision.nn.runtime`): two at once would
only take them from each other.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

URGENT_IN_A_ROW = 4
"""After as many urgent turns, one that is not urgent comes, if any waits: nobody waits for ever."""


class Turns:
    """A lock that is handed on in the order of asking, which for threads that each ask for one thing at a time is round robin.

    A thread that has the turn may ask again, as with `threading.RLock`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._urgent: deque[_Ticket] = deque()
        self._others: deque[_Ticket] = deque()
        self._in_a_row = 0

    @property
    def waiting(self) -> int:
        """How many threads wait for their turn."""
        with self._lock:
            return len(self._urgent) + len(self._others)

    @contextmanager
    def turn(self, *, urgent: bool = False) -> Iterator[None]:
        """Wait for a turn and have it.

        Parameters
        ----------
        urgent
            Somebody looks at this one slice: it comes before everything that is not urgent, except what runs already.
        """
        if self._owner == threading.get_ident():
            yield
            return
        self._wait(urgent)
        try:
            yield
        finally:
            with self._lock:
                self._hand_on()

    def _wait(self, urgent: bool) -> None:
        queue = self._urgent if urgent else self._others
        with self._lock:
            if self._owner is None:
                self._owner = threading.get_ident()
                return
            ticket = _Ticket()
            queue.append(ticket)
        try:
            ticket.called.wait()
        except BaseException:  # Ctrl+C in a waiting thread: nobody may wait for it
            with self._lock:
                if ticket in queue:
                    queue.remove(ticket)
                else:
                    self._hand_on()
            raise

    def _hand_on(self) -> None:
        """Call the next one; the lock is held."""
        urgent = bool(self._urgent) and (self._in_a_row < URGENT_IN_A_ROW or not self._others)
        queue = self._urgent if urgent else self._others
        self._in_a_row = self._in_a_row + 1 if urgent and self._others else 0
        if queue:
            ticket = queue.popleft()
            self._owner = ticket.thread
            ticket.called.set()
        else:
            self._owner = None


class _Ticket:
    """One thread that waits."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.called = threading.Event()
