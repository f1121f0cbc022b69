"""Pacing: no window of the server ever exceeds its limit, whatever the network delay, and the limit is used.

Time is simulated: a server counts requests as they arrive, and threads wait on a simulated clock.
"""

import math
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crm_sync.destinations.http.rate_limiter import RateLimit, RateLimiter, RateLimitInfo
from tests.support.builders.pacing import Asleep, Thread, World


def assert_no_window_holds_more(arrivals: Sequence[float], limits: Sequence[RateLimit]) -> None:
    """A window begins with every arrival and excludes its end."""
    in_order = sorted(arrivals)
    for limit in limits:
        for earlier, later in zip(in_order, in_order[limit.requests :], strict=False):
            assert earlier + limit.seconds <= later


LIMITS = st.builds(RateLimit, st.integers(1, 40), st.sampled_from([0.7, 1.0, 1.1, 3.0, 10.0]) | st.floats(0.5, 60))
DELAYS = st.lists(st.sampled_from([0.0, 0.001, 0.3]) | st.floats(0, 20), min_size=1, max_size=12)


@given(
    limits=st.lists(LIMITS, min_size=1, max_size=2),
    delays=DELAYS,
    threads=st.integers(1, 12),
    phase=st.sampled_from([0.0, 0.1, 12_345.678]) | st.floats(0, 1e7),
    speaks=st.booleans(),
)
# In floating point 0.1 + 0.7 is less than 0.8: a limiter that compares different sums would loop forever here.
@example(limits=[RateLimit(1, 0.7)], delays=[0.0], threads=1, phase=0.1, speaks=False)
def test_no_window_of_the_server_holds_more_than_the_limit(
    limits: list[RateLimit], delays: list[float], threads: int, phase: float, speaks: bool
) -> None:
    world = World(RateLimiter(limits), limits, delays, threads, phase, speaks)
    world.run(seconds=8 * max(limit.seconds for limit in limits) + 4 * max(delays), max_requests=300)
    assert world.arrivals
    assert_no_window_holds_more(world.arrivals, limits)


@given(
    limit=LIMITS,
    shares=st.lists(st.floats(0, 0.01), min_size=1, max_size=8),
    spare_threads=st.integers(2, 6),
    phase=st.floats(0, 1e6),
)
def test_where_the_network_is_fast_against_the_window_19_of_20_requests_granted_are_made(
    limit: RateLimit, shares: list[float], spare_threads: int, phase: float
) -> None:
    """Fast: each direction takes at most a hundredth of the window."""
    delays = [share * limit.seconds for share in shares]
    threads = math.ceil(limit.requests * 2 * max(delays) / limit.seconds) + spare_threads
    world = World(RateLimiter([limit]), [limit], delays, threads, phase)
    world.run(seconds=20 * limit.seconds)
    assert len(world.arrivals) >= 0.95 * 20 * limit.requests
    assert_no_window_holds_more(world.arrivals, [limit])


@pytest.mark.parametrize(("requests", "seconds", "latency", "threads"), [(190, 10, 0.3, 8), (3_000, 3, 0.02, 32)])
def test_the_documented_limits_are_reached_over_a_usual_network(
    requests: int, seconds: float, latency: float, threads: int
) -> None:
    """HubSpot's 190 per 10 s at a round trip of 300 ms, and Braze's 3,000 per 3 s at 20 ms, for five windows."""
    limit = RateLimit(requests, seconds)
    world = World(RateLimiter([limit]), [limit], [latency / 2], threads)
    world.run(5 * seconds, max_requests=20_000)
    assert len(world.arrivals) >= 0.95 * 5 * requests
    assert_no_window_holds_more(world.arrivals, [limit])


def test_requests_are_spread_over_the_window() -> None:
    limit = RateLimit(10, 5)
    world = World(RateLimiter([limit]), [limit], [0.0], threads=4)
    world.run(2.4)
    # The first two are 0.2 s closer together: a thread that wakes up late may catch up by that much.
    assert world.arrivals == pytest.approx([0, 0.3, 0.8, 1.3, 1.8, 2.3])


def test_without_limits_nothing_waits() -> None:
    world = World(RateLimiter([]), [], [0.0], threads=1)
    world.run(1.0, max_requests=1_000)
    assert world.arrivals == [0.0] * 1_000


# Rate limit headers


def rate(pace: RateLimiter, limit: RateLimit, said: RateLimitInfo, windows: int = 10, begins: float = 0.0) -> float:
    """Average number of requests per window when every reply has these headers."""
    arrivals = 0
    now, run = begins, Thread()
    while now < begins + windows * limit.seconds:
        run.now = now
        try:
            pace.wait(run)
        except Asleep as asleep:
            now += asleep.seconds
        else:
            arrivals += 1
            pace.heard(said, now)
    return arrivals / windows


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (RateLimitInfo(), 100),
        (RateLimitInfo(limit=50), 50),
        (RateLimitInfo(limit=1), 1),
        # A limit above the configured one, or a limit of zero, is ignored.
        (RateLimitInfo(limit=101), 100),
        (RateLimitInfo(limit=1_000_000), 100),
        (RateLimitInfo(limit=0), 100),
        (RateLimitInfo(limit=-5), 100),
        (RateLimitInfo(remaining=3), 100),
    ],
)
def test_a_server_that_grants_less_is_heeded_and_one_that_grants_more_is_not(
    said: RateLimitInfo, expected: float
) -> None:
    limit = RateLimit(100, 10)
    assert rate(RateLimiter([limit]), limit, said) == pytest.approx(expected, rel=0.11)


def test_a_limit_that_is_raised_again_is_used_again() -> None:
    limit = RateLimit(100, 10)
    pace = RateLimiter([limit])
    assert rate(pace, limit, RateLimitInfo(limit=10)) == pytest.approx(10, rel=0.11)
    assert rate(pace, limit, RateLimitInfo(limit=100), begins=100) == pytest.approx(100, rel=0.11)


@pytest.mark.parametrize(
    ("share", "threads", "expected", "refused"),
    # With nothing left, one request per window checks whether requests are allowed again.
    [(0.3, 1, 70, 0), (0.3, 6, 70, 0), (0.9, 4, 10, 0), (1.0, 2, 1, 13)],
)
def test_what_others_use_of_the_limit_is_left_to_them(
    share: float, threads: int, expected: float, refused: int
) -> None:
    """Other clients send steadily, before and after we begin."""
    limit, windows = RateLimit(100, 10), 12
    others = [moment * 10 / (100 * share) for moment in range(int(-100 * share), int(100 * share * windows))]
    world = World(RateLimiter([limit]), [limit], [0.01], threads, speaks=True, foreign=others)
    world.run(windows * limit.seconds)
    ours = len([moment for moment in world.arrivals if moment > limit.seconds]) / (windows - 1)
    assert ours == pytest.approx(expected, abs=1)
    assert world.refused == refused


def test_the_budget_that_others_no_longer_use_is_taken() -> None:
    limit = RateLimit(100, 10)
    others = [moment / 8 for moment in range(-80, 80)]  # 80 per window, until ten seconds after our first request
    world = World(RateLimiter([limit]), [limit], [0.01], 2, speaks=True, foreign=others)
    world.run(120)
    assert len([moment for moment in world.arrivals if moment >= 40]) >= 0.95 * 800
