"""Audience guard: a sync stops before it sends anything when the audience has collapsed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import CircuitOpenError
from crm_sync.audience_guard import MIN_AUDIENCE, check_audience_drop, count_audience
from tests.support.sync.builders import (
    GRANTED,
    SCORED,
    RecordingDestination,
    deliveries,
    marts_in,
    pending,
    pending_users,
    plan,
    run,
)
from warehouse.duckdb.warehouse import DuckDBWarehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    with marts_in(tmp_path) as context:
        yield context


def profiles(warehouse: DuckDBWarehouse, scored: int, unscored: int) -> None:
    warehouse.connection.execute(f"insert into marts.crm_profiles select 's' || range, 0.5 from range({scored})")
    warehouse.connection.execute(f"insert into marts.crm_profiles select 'u' || range, null from range({unscored})")


@pytest.mark.parametrize(
    ("now", "before", "min_ratio", "has_collapsed"),
    [
        (0, None, 0.5, False),
        (0, 49, 0.5, False),
        (0, 50, 0.5, True),
        (24, 50, 0.5, True),
        (25, 50, 0.5, False),
        (100, 50, 1.0, False),
        (49, 50, 1.0, True),
        (0, 1_000_000, 0.0, False),
        (499_999, 1_000_000, 0.5, True),
        (500_000, 1_000_000, 0.5, False),
    ],
)
def test_an_audience_has_collapsed_below_the_share_of_the_last_run_s_unless_that_was_small(
    now: int, before: int | None, min_ratio: float, has_collapsed: bool
) -> None:
    assert (check_audience_drop(now, before, min_ratio) is not None) == has_collapsed


def test_the_audience_is_who_has_a_score(warehouse: DuckDBWarehouse) -> None:
    profiles(warehouse, scored=3, unscored=4)
    assert count_audience(warehouse) == 3


def test_a_collapse_stops_before_anything_is_sent_and_says_what_to_do(warehouse: DuckDBWarehouse) -> None:
    profiles(warehouse, scored=20, unscored=80)
    for number in range(80):
        pending(warehouse, f"w{number}", before=SCORED | GRANTED, churn_probability=None, voucher_reason="no_consent")
    pending(warehouse, "ada", suppressed_because="erased")
    crm = RecordingDestination()
    counts, stopped = run(warehouse, crm, plan(warehouse, min_audience_ratio=0.5, last_audience=100))
    assert (crm.arrived, deliveries(warehouse)) == ([], {})
    assert isinstance(stopped, CircuitOpenError)
    assert str(stopped) == (
        "The audience has collapsed from 100 users to 20: less than 50% of the last run's. Nothing was sent, because "
        "all other users would lose their scores and vouchers. Check that consents, profiles and decisions are loaded. "
        "If the drop is correct: winback run --allow-audience-drop"
    )
    assert (counts.differing, counts.suppressed, counts.deferred) == (81, {"erased": 1}, {"circuit_open": 80})
    assert (counts.audience, counts.requests) == (20, 0)


@pytest.mark.parametrize("last_audience", [None, 40, MIN_AUDIENCE - 1])
def test_an_audience_that_has_not_collapsed_is_counted_and_sent(
    warehouse: DuckDBWarehouse, last_audience: int | None
) -> None:
    profiles(warehouse, scored=20, unscored=0)
    users = pending_users(warehouse, 3)
    crm = RecordingDestination()
    how = plan(warehouse, min_audience_ratio=0.5, last_audience=last_audience)
    counts, stopped = run(warehouse, crm, how)
    assert (crm.arrived, counts.audience, stopped) == (users, 20, None)
