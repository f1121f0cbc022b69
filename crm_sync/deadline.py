"""Deadline of a sync: the time when it has to end, or the signal that stops it earlier."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from crm_sync.destination import DeadlineExceededError


class Deadline:
    """The Run of crm_sync.destination: every wait of every thread ends when the run has to leave.

    `clock` and `seconds_left` are of one monotonic clock, in seconds; `wait` sleeps up to so many seconds and says whether it was
    woken to stop.
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
        """Have every wait end now. `why` is told to a person: a signal's name. Safe to call from a signal handler."""
        self._why = why
        self._stopped.set()

    @property
    def is_stopped(self) -> bool:
        """Whether somebody told the run to stop."""
        return self._stopped.is_set()

    @property
    def is_over(self) -> bool:
        """Whether the run has to leave: its time is up, or somebody told it to stop."""
        return self.is_stopped or self.clock() >= self._ends

    def check(self) -> None:
        """Raises: DeadlineExceededError when the run has to leave now."""
        self._leave_unless_left(0)

    def sleep(self, seconds: float) -> None:
        """Wait, or raise DeadlineExceededError: at once when the deadline comes first, and as soon as the run is stopped."""
        self._leave_unless_left(seconds)
        self._wait(seconds)
        self._leave_unless_left(0)

    def _leave_unless_left(self, seconds: float) -> None:
        if self._stopped.is_set():
            raise DeadlineExceededError(f"The run was told to stop ({self._why}); the next run goes on.", "stopped")
        if self.clock() + seconds >= self._ends:
            text = "The run's time was up before everything was sent; the next run goes on."
            raise DeadlineExceededError(text, "deadline")
