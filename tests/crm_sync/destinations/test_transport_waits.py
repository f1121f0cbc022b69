"""Waits before a retry: the server's requested wait by its own clock, else our backoff."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_sync.destination import DeadlineExceededError, UnavailableError
from crm_sync.destinations.http import reply as replies_module
from crm_sync.destinations.http.rate_limiter import RateLimiter, RateLimitInfo
from crm_sync.destinations.http.reply import Reply, number, retry_after
from crm_sync.destinations.http.transport import RetryBudget, Transport
from tests.support.crm.local_api import DATE, DATE_SECONDS, Canned, FakeRunContext, Script, scripted_server

DONE = {"done": True}


def ask(script: Script, run: FakeRunContext) -> Reply:
    """Send one small request with its retries."""
    return Transport(script.url, {}, RateLimiter([]), budget=RetryBudget(120)).request(run, "POST", "/", body={})


def date(seconds: int) -> str:
    """The time this many seconds after the server's clock."""
    return f"Mon, 15 Jun 2026 10:{seconds // 60:02d}:{seconds % 60:02d} GMT"


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("7", 7),
        (" 90 ", 90),
        ("119", 119),
        ("1.5", 1.5),
        (date(42), 42),
        ("Monday, 15-Jun-26 10:01:00 GMT", 60),
        ("Mon Jun 15 10:01:00 2026", 60),  # asctime
        ("Mon Jun  5 10:01:00 2026, 7", 7),
        ("Mon, 15 Jun 2026 10:01:00 -0000", 60),
        ("Mon, 15 Jun 2026 12:01:00 +0200", 60),
        ("2026-06-15T10:01:00Z", 60),
        # Two values, for instance from a proxy: the longer wait counts.
        ("7, 7", 7),
        ("5, 90", 90),
        ("soon, 7", 7),
        (f"{date(30)}, {date(42)}", 42),
        (f"Monday, 15-Jun-26 10:01:00 GMT, {date(42)}, 5", 60),
        # As Unix time
        (f"{DATE_SECONDS + 42}", 42),
        (f"{DATE_SECONDS + 42}000", 42),
        (f"{DATE_SECONDS + 42}000000", 42),
        (f"{DATE_SECONDS + 42}000000000", 42),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("name", ["Retry-After", "retry-after", "RETRY-AFTER"])
def test_the_wait_that_is_asked_for_is_kept_to_the_second(asked: str, seconds: float, status: int, name: str) -> None:
    run = FakeRunContext()
    with scripted_server(Canned(status, {}, {name: asked}), Canned(200, DONE)) as script:
        ask(script, run)
    assert run.waits == [seconds]


@pytest.mark.parametrize("year", [1999, 2026, 2038])
def test_a_date_is_read_by_the_server_s_clock_whatever_ours_says(year: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(year, 1, 1, tzinfo=tz)

    monkeypatch.setattr(replies_module, "datetime", Wrong)
    run = FakeRunContext()
    with scripted_server(Canned(503, {}, {"Retry-After": date(42)}), Canned(200, DONE)) as script:
        ask(script, run)
    assert run.waits == [42]


def test_a_server_without_a_clock_is_asked_again_after_the_seconds_it_names() -> None:
    run = FakeRunContext()
    with scripted_server(Canned(429, {}, {"Retry-After": "7"}, date=None), Canned(200, DONE)) as script:
        ask(script, run)
    assert run.waits == [7]


@pytest.mark.parametrize(
    "asked",
    ["soon", "\u00b2", "0", "0.001", "-5", "nan", "inf", "1e3", "0x10", "", date(0), "Mon, 15 Jun 2026 09:59:00 GMT"],
)
def test_a_wait_that_is_none_or_over_or_cannot_be_read_falls_back_to_our_own(asked: str) -> None:
    run = FakeRunContext()
    with scripted_server(Canned(429, {}, {"Retry-After": asked}), Canned(200, DONE)) as script:
        ask(script, run)
    assert len(run.waits) == 1
    assert 0 < run.waits[0] <= 0.5


@given(st.text(st.characters(max_codepoint=255)), st.text(st.characters(max_codepoint=255)) | st.just(date(0)))
def test_no_header_makes_us_stumble(text: str, clock: str) -> None:
    reply = Reply(429, {"retry-after": text, "date": clock})
    assert isinstance(retry_after(reply), float | None)
    assert isinstance(number(reply, "retry-after"), int | None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        (" 19 ", 19),
        ("150, 10;w=1, 150;w=60", 150),
        ("10, 3", 3),
        ("3, 10", 3),
        ("a, 5", 5),
        ("0", 0),
        ("-1", None),
        ("1.5", None),
        ("\u00b2", None),
        ("9" * 16, None),
    ],
)
def test_a_header_that_is_a_whole_number_is_read_as_one(text: str, value: int | None) -> None:
    assert number(Reply(200, {"some": text}), "some") == value


@pytest.mark.parametrize("asked", ["121", "9" * 400])
def test_a_wait_longer_than_the_budget_is_not_begun(asked: str) -> None:
    run = FakeRunContext()
    with scripted_server(Canned(429, {}, {"Retry-After": asked})) as script, pytest.raises(UnavailableError) as left:
        ask(script, run)
    assert (run.waits, left.value.code) == ([], "throttled")


@pytest.mark.parametrize("clock", ["Mon Jun 15 10:00:00 2026", "Mon, 15 Jun 2026 10:00:00 -0000", f"{DATE}, {DATE}"])
def test_the_server_s_clock_is_read_in_every_form(clock: str) -> None:
    assert retry_after(Reply(429, {"retry-after": date(42), "date": clock})) == 42


@pytest.mark.parametrize("asked", ["100", date(100), f"{DATE_SECONDS + 100}000"])
def test_a_wait_longer_than_the_run_is_not_begun_and_the_error_says_so(asked: str) -> None:
    """The retry budget would allow it, but the run has 50 s left."""
    run = FakeRunContext(seconds_left=50)
    with (
        scripted_server(Canned(503, {}, {"Retry-After": asked})) as script,
        pytest.raises(DeadlineExceededError) as left,
    ):
        ask(script, run)
    assert (run.waits, left.value.code) == ([], "deadline")
    assert str(left.value) == "The CRM requests a pause that is longer than the run may last; the next run continues."


def test_every_thread_leaves_before_a_wait_longer_than_the_run() -> None:
    pace, run = RateLimiter([]), FakeRunContext(seconds_left=50)
    pace.wait(run)
    pace.heard(RateLimitInfo(wait_seconds=100), run.clock())
    with pytest.raises(DeadlineExceededError, match="longer than the run may last"):
        pace.wait(run)
    assert run.waits == []
