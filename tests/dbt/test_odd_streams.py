"""Valid but unusual data: endless sessions, shared event ids, and rows that become visible late."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.hourly.run import Result
from jobs.upkeep.audit import Audit, audit
from jobs.upkeep.nightly import NightlyResult, nightly
from sandbox.local_crm.server import LocalCrm
from tests.support.environment import API_KEY, HISTORY_UNTIL, NOW, World, at, copy_history
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import APP_EVENTS

pytestmark = pytest.mark.data_tests

LAST = 152  # the hour after the history at which the tests check
Row = tuple[str, str, str, datetime]


def append(world: World, rows: list[Row]) -> None:
    """Add events that arrive when they happen, as user, id, name and time."""
    names = ("user_id", "event_id", "event_name", "occurred_at", "loaded_at")
    made = [dict(zip(names, (*row, row[3]), strict=True)) for row in rows]
    warehouse = DuckDBWarehouse(world.folder / "winback.duckdb")
    try:
        warehouse.append(APP_EVENTS, pa.Table.from_pylist(made, schema=APP_EVENTS.schema))
    finally:
        warehouse.close()


def every(minutes: int, user: str, since: float, until: float) -> list[Row]:
    """Return events `minutes` apart, from `since` until `until`, in hours after the history."""
    count = int((until - since) * 60) // minutes + 1
    return [(user, f"{user}-{n}", "step_opened", at(since) + timedelta(minutes=n * minutes)) for n in range(count)]


KIOSK = every(20, "kiosk", 7, 33)  # lasts 26 hours, over two midnights
ENDLESS = every(25, "endless", 1, 200)  # began before the reach of the last runs
# A counter per device: the same ids under several users and names.
COUNTED: list[Row] = [
    ("one", "1", "step_opened", at(2)),
    ("one", "2", "field_saved", at(2.1)),
    ("two", "1", "step_opened", at(2)),
    ("two", "2", "filing_submitted", at(2.1)),
    ("two", "2", "field_saved", at(2.1)),
]


@pytest.fixture(scope="module")
def days(history: Path, tmp_path_factory: pytest.TempPathFactory, parsed: dict[str, Any]) -> Iterator[World]:
    """A warehouse and CRM for five days of runs with these users. Each test below continues from the one before."""
    folder = tmp_path_factory.mktemp("odd")
    copy_history(history, folder)
    with LocalCrm(folder / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        yield World(folder, crm, parsed)


@pytest.fixture(scope="module")
def runs(days: World) -> list[Result]:
    append(days, [*KIOSK, *ENDLESS, *COUNTED])
    # A data test once failed four days after the long session, because its start was outside the days that the test reads.
    return [days.run(hours) for hours in (40, 122, 150, LAST)]


def of_user(world: World, columns: str, table: str, user: str, order: str = "1") -> list[tuple[Any, ...]]:
    rows = world.query(f"select {columns} from {table} where user_id = '{user}' order by {order}")
    return [tuple(row.values()) for row in rows]


def test_a_session_over_two_midnights_ends_in_one_skipped_exit(days: World, runs: list[Result]) -> None:
    assert [run.stopped for run in runs] == [None] * 4
    assert runs[0].scoring is not None
    assert runs[0].scoring.skipped["session_too_long"] == 1
    assert of_user(days, "disposition, skip_reason, exited_at", "ops.decisions", "kiosk") == [
        ("skipped", "session_too_long", KIOSK[-1][3])
    ]
    cut = of_user(days, "count_events, is_cut, is_too_long", "intermediate.int_sessions", "kiosk", "started_at")
    # From 23:00 to midnight, a day, and from midnight to 1:00.
    assert cut == [(3, True, True), (72, True, True), (4, False, True)]


def test_an_endless_session_is_cut_by_day_counted_once_and_never_decided(days: World, runs: list[Result]) -> None:
    loaded = [row for row in ENDLESS if row[3] < at(LAST)]
    by_day = [sum(row[3].date() == day for row in loaded) for day in sorted({row[3].date() for row in loaded})]

    rows = days.query(
        "select count_events from intermediate.int_sessions where user_id = 'endless' and not is_dissolved order by started_at"
    )
    assert [row["count_events"] for row in rows] == by_day
    assert of_user(days, "exit_id", "marts.fct_unfinished_exits", "endless") == []
    assert of_user(days, "exit_id", "ops.decisions", "endless") == []
    assert [run.arrivals.users_session_too_long for run in runs] == [2, 1, 1, 1]
    longest = days.query("select max(duration_microseconds) as longest from intermediate.int_sessions")
    assert longest[0]["longest"] <= 24 * 3600 * 1_000_000


def test_another_users_completion_under_the_same_id_counts(days: World, runs: list[Result]) -> None:
    assert of_user(days, "event_id, event_name", "intermediate.int_events__deduplicated", "two", "1, 2") == [
        ("1", "step_opened"),
        ("2", "field_saved"),
        ("2", "filing_submitted"),
    ]
    assert of_user(days, "outcome", "intermediate.int_outcomes", "two") == [("finished",)]
    assert of_user(days, "outcome", "intermediate.int_outcomes", "one") == []
    assert (runs[0].arrivals.sharing_id, runs[0].arrivals.differing) == (5, 0)


def night_of(world: World) -> NightlyResult:
    with world.context(now=lambda: at(LAST)) as context:
        return nightly(context)


def audit_of(world: World) -> Audit:
    with world.context(now=lambda: at(LAST)) as context:
        return audit(context, 100)


def test_the_night_takes_in_rows_that_became_visible_after_their_window(days: World, runs: list[Result]) -> None:
    """One row was loaded before the backfill ended, one five days before the nightly run. A completion withdraws a score."""
    scored = days.query("select user_id from marts.crm_profiles where churn_probability is not null order by 1 limit 1")
    user = scored[0]["user_id"]
    hidden: list[Row] = [
        ("seen-late", "h-1", "field_saved", at(-2)),
        ("seen-late", "h-2", "field_saved", at(20)),
        (user, "h-3", "filing_submitted", at(25)),
    ]
    append(days, hidden)
    assert audit_of(days).drift is not None

    night = night_of(days)

    assert (night.missed.count_events, night.missed.build_from) == (3, at(-2))
    assert (night.missed.first_loaded_at, night.missed.last_loaded_at) == (at(-2), at(25))
    assert audit_of(days).drift is None
    again = night_of(days)
    assert (again.missed.count_events, again.is_corrected) == (0, False)

    days.run(LAST + 2)

    exits = of_user(days, "exited_at, disposition", "ops.decisions", "seen-late")
    assert exits == [(at(20), "scored")]
    assert of_user(days, "churn_probability, voucher_reason", "marts.crm_profiles", user) == [(None, "finished")]
    kept = days.query("select count_events_missed, window_from from ops.nights order by night_id, rebuilt_at")
    assert sorted((row["count_events_missed"], row["window_from"]) for row in kept) == [
        (0, max(at(LAST) - timedelta(days=3), HISTORY_UNTIL)),
        (3, at(-2)),
    ]


def test_a_withdrawal_of_consent_that_became_visible_late_is_taken_in_after_the_night(days: World) -> None:
    scored = days.query("select user_id from marts.crm_profiles where churn_probability is not null order by 1 limit 1")
    user = scored[0]["user_id"]
    days.append_profile(user, at(30), marketing_consent=False)

    with days.context(now=lambda: at(LAST + 2)) as context:
        assert nightly(context).missed.count_events == 0
    days.run(LAST + 3)

    assert of_user(days, "churn_probability, voucher_reason", "marts.crm_profiles", user) == [(None, "no_consent")]
