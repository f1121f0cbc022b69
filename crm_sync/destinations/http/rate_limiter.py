"""Rate limiter shared by all sending threads; its limits follow the CRM's headers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from crm_sync.destination import DeadlineExceededError, Run, UnavailableError

# How often a thread looks again whether another one's reply has come, when all of the budget is in flight.
_LOOK_SECONDS = 0.005
_CATCH_UP_SECONDS = 0.2


@dataclass(frozen=True)
class RateLimit:
    """At most `requests` in any `seconds`."""

    requests: int
    seconds: float


@dataclass(frozen=True)
class RateLimitInfo:
    """What a reply's headers say of the budget; None where they say nothing.

    `wait_seconds`: the server asks for no request for so long. `limit` and `remaining` are of the first of the limits.
    `is_exhausted`: waiting within this run cannot help, such as a limit per day.
    """

    wait_seconds: float | None = None
    limit: int | None = None
    remaining: int | None = None
    is_exhausted: bool = False


class RateLimiter:
    """Requests spread over the first limit's window, and never more than any limit in any window, by the server's clock.

    A request counts from before it is sent until a whole window after its reply: the server received it in between, so whatever
    the network's delay, no window of the server's holds more. The price is one round trip a window.
    """

    def __init__(self, limits: Sequence[RateLimit]) -> None:
        """No limits: as fast as it goes. Time is the runs' own clock, which all of them must share."""
        self._limits = tuple(limits)
        self._lock = threading.Lock()
        self._in_flight = 0
        # When the last replies came, the newest last; `_recent` those within the first limit's window.
        self._replied: deque[float] = deque(maxlen=max((limit.requests for limit in limits), default=1))
        self._recent: deque[float] = deque()
        self._paused_until = self._next_at = float("-inf")
        # Of the first limit: what the server grants this account, and how much of it others use.
        self._granted: int | None = None
        self._foreign = 0

    def wait(self, run: Run, patience_seconds: float = float("inf")) -> None:
        """Return when the next request may go out; `heard` must follow, whatever becomes of it.

        Raises: DeadlineExceededError when the run has to leave before, UnavailableError when the server asked some thread for a
        longer pause than `patience_seconds`: all of them leave, not only the one that was told.
        """
        run.check()
        while delay := self._delay(run.clock()):
            if self._paused_until - run.clock() > patience_seconds:
                text = f"The CRM asks for a longer pause than the retry budget's {patience_seconds:g} s."
                raise UnavailableError(text, "throttled")
            try:
                run.sleep(delay)
            except DeadlineExceededError as left:
                raise self.why_left(left, run.clock()) from None

    def why_left(self, left: DeadlineExceededError, now: float) -> DeadlineExceededError:
        """The same with a text that says so where the server asked for the wait, which is longer than the run's time."""
        if left.code == "deadline" and self._paused_until > now:
            text = "The CRM asks for a pause that is longer than the run may last; the next run goes on."
            return DeadlineExceededError(text, left.code)
        return left

    def heard(self, heard: RateLimitInfo | None, now: float) -> None:
        """Count a request as over, and adapt to what its reply's headers say; None when there was no reply."""
        with self._lock:
            self._in_flight -= 1
            self._replied.append(now)
            if heard is not None and heard.wait_seconds is not None:
                self._paused_until = max(self._paused_until, now + heard.wait_seconds)
            if not self._limits:
                return
            self._recent.append(now)
            while self._recent[0] + self._limits[0].seconds <= now:
                self._recent.popleft()
            if heard is None:
                return
            if heard.limit is not None and heard.limit > 0:
                self._granted = heard.limit
                if heard.remaining is not None:
                    ours = self._in_flight + len(self._recent)
                    self._foreign = max(0, heard.limit - heard.remaining - ours)

    def _delay(self, now: float) -> float:
        """Seconds until it is worth asking again; 0 when a request may go out, which is then counted."""
        with self._lock:
            ready_at = max(
                self._paused_until, self._next_at, *(self._ready_at(i, now) for i in range(len(self._limits)))
            )
            if ready_at > now:
                return ready_at - now
            self._in_flight += 1
            if self._limits:
                spacing = self._limits[0].seconds / self._count(0)
                # A thread that woke up late catches up, by no more than this: the budget of a pause is not saved up.
                self._next_at = max(self._next_at, now - _CATCH_UP_SECONDS) + spacing
            return 0.0

    def _count(self, index: int) -> int:
        """How many requests the limit allows us in its window now."""
        count = self._limits[index].requests
        if index == 0 and self._granted is not None:
            count = min(count, self._granted - self._foreign)
        return max(1, count)

    def _ready_at(self, index: int, now: float) -> float:
        count = self._count(index)
        if self._in_flight >= count:
            return now + _LOOK_SECONDS
        # With this one, the request so many replies ago would be one too many in the window.
        back = count - self._in_flight
        return self._replied[-back] + self._limits[index].seconds if len(self._replied) >= back else now
