"""Rate limiter shared by all sending threads; its limits follow the CRM's headers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from crm_sync.destination import DeadlineExceededError, Run, UnavailableError

# How often a waiting thread checks for another thread's reply when the whole budget is in flight.
_LOOK_SECONDS = 0.005
_CATCH_UP_SECONDS = 0.2


@dataclass(frozen=True)
class RateLimit:
    """At most `requests` in any `seconds`."""

    requests: int
    seconds: float


@dataclass(frozen=True)
class RateLimitInfo:
    """The rate limit headers of a reply. None: the header is missing.

    `wait_seconds`: the server wants no request for this long. `limit` and `remaining` belong to the first limit.
    `is_exhausted`: waiting within this run cannot help, for instance at a daily limit.
    """

    wait_seconds: float | None = None
    limit: int | None = None
    remaining: int | None = None
    is_exhausted: bool = False


class RateLimiter:
    """Spreads requests over the first limit's window, and never exceeds any limit in any window by the server's clock.

    A request counts from before it is sent until one full window after its reply. The server received it in between, so no window
    of the server's holds more, whatever the network delay. The price is one round trip per window.
    """

    def __init__(self, limits: Sequence[RateLimit]) -> None:
        """Without limits, requests are not delayed. All runs must share one clock."""
        self._limits = tuple(limits)
        self._lock = threading.Lock()
        self._in_flight = 0
        # Times of the last replies, the newest last. `_recent`: those within the first limit's window.
        self._replied: deque[float] = deque(maxlen=max((limit.requests for limit in limits), default=1))
        self._recent: deque[float] = deque()
        self._paused_until = self._next_at = float("-inf")
        # For the first limit: what the server grants this account, and how much of it other clients use.
        self._granted: int | None = None
        self._foreign = 0

    def wait(self, run: Run, patience_seconds: float = float("inf")) -> None:
        """Block until the next request may be sent. The caller must then report its end, whatever the result.

        Raises: DeadlineExceededError if the run must end earlier. UnavailableError in all threads if the server requested a
        longer pause than `patience_seconds` in any thread.
        """
        run.check()
        while delay := self._delay(run.clock()):
            if self._paused_until - run.clock() > patience_seconds:
                text = f"The CRM requests a longer pause than the retry budget of {patience_seconds:g} s."
                raise UnavailableError(text, "throttled")
            try:
                run.sleep(delay)
            except DeadlineExceededError as left:
                raise self.why_left(left, run.clock()) from None

    def why_left(self, left: DeadlineExceededError, now: float) -> DeadlineExceededError:
        """Return the error, with a text that names the server's pause if that is longer than the run's time."""
        if left.code == "deadline" and self._paused_until > now:
            text = "The CRM requests a pause that is longer than the run may last; the next run continues."
            return DeadlineExceededError(text, left.code)
        return left

    def heard(self, heard: RateLimitInfo | None, now: float) -> None:
        """Count a request as finished and adapt to its reply's headers; None: there was no reply."""
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
        """Seconds until the next check; 0 if a request may be sent, which is then counted."""
        with self._lock:
            ready_at = max(
                self._paused_until, self._next_at, *(self._ready_at(i, now) for i in range(len(self._limits)))
            )
            if ready_at > now:
                return ready_at - now
            self._in_flight += 1
            if self._limits:
                spacing = self._limits[0].seconds / self._count(0)
                # A thread that woke up late catches up by no more than this, so that a pause does not accumulate budget.
                self._next_at = max(self._next_at, now - _CATCH_UP_SECONDS) + spacing
            return 0.0

    def _count(self, index: int) -> int:
        """Number of requests that the limit currently allows us in its window."""
        count = self._limits[index].requests
        if index == 0 and self._granted is not None:
            count = min(count, self._granted - self._foreign)
        return max(1, count)

    def _ready_at(self, index: int, now: float) -> float:
        count = self._count(index)
        if self._in_flight >= count:
            return now + _LOOK_SECONDS
        # One more request fits only when the reply at this position is older than the window.
        back = count - self._in_flight
        return self._replied[-back] + self._limits[index].seconds if len(self._replied) >= back else now
