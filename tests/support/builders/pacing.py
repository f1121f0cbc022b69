"""Simulated time for tests of the rate limiter: a server counts arriving requests, threads wait as requested, nothing sleeps."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from crm_sync.destination import Run
from crm_sync.destinations.http.rate_limiter import RateLimit, RateLimiter, RateLimitInfo


class Asleep(Exception):  # noqa: N818 - it passes a thread's wait to the simulation
    """A thread of the simulation would sleep now."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


@dataclass
class Thread:
    """A Run whose sleeps go to the simulation. Waiting again later is equivalent to a loop over `sleep`."""

    now: float = 0.0
    run_id: str = "00000007-test"

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0, "a sleep of nothing would spin for ever"
        raise Asleep(seconds)

    def check(self) -> None:
        """Do nothing, because there is always time."""


@dataclass
class World:
    """A server, the network delays, and threads that send one request after the other.

    `delays` are the seconds that requests and replies take, alternately. `phase` is the time at the start. With `speaks`, the
    server reports its first limit. `foreign` are arrivals from other clients.
    """

    pace: RateLimiter
    limits: Sequence[RateLimit]
    delays: Sequence[float]
    threads: int
    phase: float = 0.0
    speaks: bool = False
    foreign: Sequence[float] = ()
    arrivals: list[float] = field(default_factory=list)
    refused: int = 0

    def run(self, seconds: float, max_requests: int = 2_000) -> None:
        """Let the threads send for this many seconds."""
        order, turn = count(), count()
        events: list[tuple[float, int, str, float]] = []

        def at(moment: float, what: str, arrived: float = 0.0) -> None:
            heapq.heappush(events, (moment, next(order), what, arrived))

        for _ in range(self.threads):
            at(self.phase, "send")
        while events and events[0][0] < self.phase + seconds and len(self.arrivals) < max_requests:
            now, _, what, arrived = heapq.heappop(events)
            if what == "send":
                try:
                    self.pace.wait(Thread(now))
                except Asleep as asleep:
                    at(now + asleep.seconds, "send")
                else:
                    at(now + self.delays[next(turn) % len(self.delays)], "arrive")
            elif what == "arrive":
                self.arrivals.append(now)
                at(now + self.delays[next(turn) % len(self.delays)], "reply", now)
            else:
                self.pace.heard(self._heard(arrived), now)
                at(now, "send")

    def _heard(self, arrived: float) -> RateLimitInfo:
        if not self.speaks:
            return RateLimitInfo()
        first = self.limits[0]
        of_others = [moment for moment in self.foreign if arrived - first.seconds < moment <= arrived]
        of_ours = [moment for moment in self.arrivals if arrived - first.seconds < moment <= arrived]
        remaining = first.requests - len(of_others) - len(of_ours)
        self.refused += remaining < 0
        return RateLimitInfo(limit=first.requests, remaining=max(0, remaining))


def asleep(pace: RateLimiter, run: Run) -> float:
    """Return how long a thread would sleep now; 0 if it may send its request."""
    try:
        pace.wait(run)
    except Asleep as wait:
        return wait.seconds
    return 0.0
