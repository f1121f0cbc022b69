"""Wrong clocks: one clock may be off by a day without a lost withdrawal, a wrong acknowledged state or a short wait."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import product
from typing import Any

import pytest

from core.errors import WinbackError
from crm_sync.destinations.braze import Braze, BrazeOptions
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.destinations.hubspot.client import HubSpot
from crm_sync.destinations.klaviyo.client import Klaviyo
from crm_sync.destinations.salesforce.client import Salesforce
from crm_sync.diff import Change
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.invariants import canonical
from tests.support.sync.hours import START, Hours
from tests.support.sync.recorder import Trouble
from tests.support.sync.reference_model import Oracle
from tests.support.sync.tables import SyncTables

KEY = "key-of-another-time"
RIGHT, AHEAD, BEHIND = timedelta(), timedelta(days=1), timedelta(days=-1)
CLOCKS = {"right": RIGHT, "a day ahead": AHEAD, "a day behind": BEHIND}
GRANTED: dict[str, Any] = {
    "churn_probability": 0.5,
    "churn_risk_band": "medium",
    "churn_scored_at": START,
    "churn_model_version": "m1",
    "is_voucher_eligible": True,
    "voucher_reason": "granted",
    "voucher_valid_until": START + timedelta(days=7),
    "experiment_arm": "treatment",
}
WITHDRAWN = GRANTED | {"is_voucher_eligible": False, "voucher_reason": "redeemed", "voucher_valid_until": None}


@pytest.fixture(scope="module")
def tables() -> Iterator[SyncTables]:
    made = SyncTables()
    yield made
    made.close()


@pytest.fixture(scope="module")
def crm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path_factory.mktemp("clocks") / "crm.sqlite", api_key=KEY) as server:
        yield server


@pytest.fixture
def hours(tables: SyncTables, crm: LocalCrm) -> Hours:
    return Hours(tables, crm, lambda url: Braze(url, KEY, BrazeOptions(limits=()), RetryBudget(0.1)))


def has_voucher(hours: Hours) -> bool:
    return bool((hours.crm.store.profile("ada") or {}).get("voucher_eligible"))


def acknowledged(hours: Hours) -> dict[str, Any]:
    (row,) = hours.tables.dicts("select * from marts.crm_acknowledged")
    return row


def is_what_the_crm_holds(hours: Hours) -> bool:
    held, row = hours.crm.store.profile("ada") or {}, acknowledged(hours)
    return all(canonical(row[field], field) == canonical(held.get(name), field) for name, field in hours.kept.items())


# Clocks of runs


@pytest.mark.parametrize("clocks", list(product(CLOCKS, repeat=3)), ids=", ".join)
def test_hours_whose_clocks_differ_end_in_the_desired_state(hours: Hours, clocks: tuple[str, ...]) -> None:
    oracle = Oracle(hours)
    for clock, state in zip(clocks, (WITHDRAWN, GRANTED, WITHDRAWN), strict=True):
        hours.tables.desire("ada", **state)
        hours.sync(ahead=CLOCKS[clock])
        oracle.look({})
        assert has_voucher(hours) == state["is_voucher_eligible"]
        hours.hour()
    # The rows of a run whose clock was behind are folded by one of the next two runs.
    for _ in range(2):
        hours.sync()
        oracle.look({})
    assert not has_voucher(hours)
    assert is_what_the_crm_holds(hours)
    assert hours.sync().calls == []


@pytest.mark.parametrize("clocks", list(product(CLOCKS, repeat=2)), ids=", ".join)
def test_a_run_again_of_the_same_hour_takes_a_voucher_away_whatever_its_clock_says(
    hours: Hours, clocks: tuple[str, ...]
) -> None:
    for clock, state in zip(clocks, (GRANTED, WITHDRAWN), strict=True):
        hours.tables.desire("ada", **state)
        hours.sync(ahead=CLOCKS[clock])
        assert has_voucher(hours) == state["is_voucher_eligible"]


def lost_to_a_clock(*clocks: str) -> Any:
    """Clocks for which a killed run seems to have sent before an earlier delivery."""
    reason = "the attempt seems two days older than the delivery before it, but only one day is folded"
    # A later run with a correct or slow clock sees that the report is ahead, and folds from the window's end.
    is_lost = tuple(CLOCKS[clock] for clock in clocks) == (AHEAD, BEHIND, AHEAD)
    return pytest.param(clocks, marks=pytest.mark.xfail(is_lost, reason=reason, strict=True), id=", ".join(clocks))


@pytest.mark.parametrize("clocks", [lost_to_a_clock(*clocks) for clocks in product(CLOCKS, repeat=3)])
def test_who_was_told_by_a_run_that_died_is_told_again(hours: Hours, clocks: tuple[str, ...]) -> None:
    first, second, third = (CLOCKS[clock] for clock in clocks)
    hours.tables.desire("ada", **WITHDRAWN)
    hours.sync(ahead=first)
    hours.hour()
    hours.tables.desire("ada", **GRANTED)
    assert hours.sync(Trouble("killed", place="after the reply"), ahead=second).is_killed
    assert has_voucher(hours)
    hours.hour()
    hours.tables.desire("ada", **WITHDRAWN)
    hours.sync(ahead=third)
    assert not has_voucher(hours)


@pytest.mark.xfail(
    reason="crm_acknowledged prefers the run with the later clock among two runs of one epoch", strict=True
)
def test_a_voucher_given_and_taken_within_an_hour_is_taken_although_another_clock_is_ahead(hours: Hours) -> None:
    for state, clock in ((WITHDRAWN, AHEAD), (GRANTED, RIGHT), (WITHDRAWN, RIGHT)):
        hours.tables.desire("ada", **state)
        hours.sync(ahead=clock)
    assert not has_voucher(hours)


# The warehouse's clock


@pytest.mark.parametrize("clock", CLOCKS)
def test_whoever_finishes_loses_the_voucher_with_the_next_hour_at_the_latest(hours: Hours, clock: str) -> None:
    hours.tables.desire("ada", **GRANTED)
    hours.happens("ada", "filing_submitted")
    seen = hours.sync(ahead=CLOCKS[clock])
    # A run ignores rows ahead of its clock, because in a replay the tables already hold them.
    assert has_voucher(hours) == (clock == "a day behind")
    assert seen.counts is not None
    assert seen.counts.suppressed == ({} if clock == "a day behind" else {"finished": 1})
    hours.hour()
    hours.tables.desire("ada", **WITHDRAWN)
    hours.sync(ahead=CLOCKS[clock])
    assert not has_voucher(hours)


# The CRM's clock


SERVERS = [
    datetime(2026, 6, 14, 10, tzinfo=UTC),
    datetime(2026, 6, 15, 10, tzinfo=UTC),
    datetime.now(UTC).replace(microsecond=0),
]


@pytest.mark.parametrize("server", SERVERS, ids=["yesterday", "today", "as ours"])
@pytest.mark.parametrize("connect", [Braze, HubSpot, Klaviyo, Salesforce])
def test_a_wait_until_a_moment_is_by_the_crm_s_own_clock(connect: Any, server: datetime) -> None:
    date, until = (format_datetime(moment, usegmt=True) for moment in (server, server + timedelta(seconds=40)))
    wait, stop = Canned(429, {}, {"Retry-After": until}, date=date), Canned(401, {})
    run = FakeRunContext()
    with scripted_server(wait, stop) as script, pytest.raises(WinbackError):
        connect(script.url, KEY, budget=RetryBudget(60.0)).send([Change("ada", {"churn_risk_band": "high"})], run)
    assert sum(run.waits) == pytest.approx(40, abs=0.1)


@pytest.mark.parametrize("server", SERVERS, ids=["yesterday", "today", "as ours"])
def test_braze_s_reset_is_by_braze_s_own_clock(server: datetime) -> None:
    reset = str(int(server.timestamp()) + 40)
    wait = Canned(429, {}, {"x-ratelimit-reset": reset}, date=format_datetime(server, usegmt=True))
    run = FakeRunContext()
    with scripted_server(wait, Canned(401, {})) as script, pytest.raises(WinbackError):
        Braze(script.url, KEY, budget=RetryBudget(60.0)).send([Change("ada", {"churn_risk_band": "high"})], run)
    assert sum(run.waits) == pytest.approx(40, abs=0.1)
