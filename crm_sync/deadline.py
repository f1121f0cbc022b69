"""Deadline of a sync: the time when it must end, or the signal that stops it earlier."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from crm_sync.destination import DeadlineExceededError


class Deadline:
    """Implements crm_sync.destination.Run: every wait of every thread ends when the run must end.

    `clock` and `seconds_left` use one monotonic clock, in seconds. `wait` sleeps up to the given number of seconds and returns
    whether a stop ended it early.
    """

    def __init__(
        self,
        run_id: str,
        seconds_left: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.run_id = run_id
        self.clock = clock
        self._ends = clock() + seconds_left
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._why = ""

    def stop(self, why: str) -> None:
        """End every wait now. `why` is shown to a person: the signal's name. Safe to call from a signal handler."""
        self._why = why
        self._stopped.set()

    @property
    def is_stopped(self) -> bool:
        """Whether the run was stopped."""
        return self._stopped.is_set()

    @property
    def is_over(self) -> bool:
        """Whether the run must end: its time is up, or it was stopped."""
        return self.is_stopped or self.clock() >= self._ends

    def check(self) -> None:
        """Raises: DeadlineExceededError when the run must end now."""
        self._leave_unless_left(0)

    def sleep(self, seconds: float) -> None:
        """Wait. Raises DeadlineExceededError at once if the deadline comes first, and as soon as the run is stopped."""
        self._leave_unless_left(seconds)
        self._wait(seconds)
        self._leave_unless_left(0)

    def _leave_unless_left(self, seconds: float) -> None:
        if self._stopped.is_set():
            raise DeadlineExceededError(f"The run was stopped ({self._why}); the next run continues.", "stopped")
        if self.clock() + seconds >= self._ends:
            text = "The run's time was up before everything was sent; the next run continues."
            raise DeadlineExceededError(text, "deadline")
