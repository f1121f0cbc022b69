"""Recheck: users who finished, withdrew consent or were erased since the window's end get no score and no voucher."""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from crm_sync.suppression import Recheck, suppressed
from tests.support.sync.builders import (
    FINISHED,
    GRANTED,
    NINE,
    PENDING,
    SCORED,
    TEN,
    RecordingDestination,
    marts_in,
    outcomes,
    pending,
    plan,
    row_of,
    run,
)
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import APP_EVENTS, ERASURES, USERS

LOOK = TEN + timedelta(minutes=10)
OUTCOMES = {"filing_submitted": "finished", "filing_deleted": "gave_up", "filing_rejected": "closed"}


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    with marts_in(tmp_path) as context:
        yield context


def event(warehouse: DuckDBWarehouse, user: str, name: str, loaded_at: datetime) -> None:
    row: dict[str, Any] = {"event_id": f"{user}-{name}", "user_id": user, "event_name": name}
    row |= {"occurred_at": NINE, "loaded_at": loaded_at}
    warehouse.append(APP_EVENTS, pa.Table.from_pylist([row], schema=APP_EVENTS.schema))


def profile(warehouse: DuckDBWarehouse, user: str, updated_at: datetime, **changes: Any) -> None:
    row = {"user_id": user, "created_at": NINE, "updated_at": updated_at, "marketing_consent": True} | changes
    warehouse.append(USERS, pa.Table.from_pylist([row], schema=USERS.schema))


def recheck(warehouse: DuckDBWarehouse, moments: Sequence[datetime] = (LOOK,)) -> Recheck:
    """A recheck since ten o'clock. Its clock returns these moments in order, then the last one again and again."""
    left = list(moments)
    return Recheck(warehouse, TEN, OUTCOMES, lambda: left.pop(0) if len(left) > 1 else left[0])


# Which users must not be sent


@pytest.mark.parametrize("name", OUTCOMES)
def test_who_ended_their_journey_since_the_window_has_news(warehouse: DuckDBWarehouse, name: str) -> None:
    event(warehouse, "before", name, TEN - timedelta(microseconds=1))
    event(warehouse, "at", name, TEN)
    event(warehouse, "after", name, TEN + timedelta(minutes=9))
    event(warehouse, "ahead", name, TEN + timedelta(minutes=11))
    event(warehouse, "other", "field_saved", TEN + timedelta(minutes=9))
    assert recheck(warehouse).news() == {"at": OUTCOMES[name], "after": OUTCOMES[name]}


@pytest.mark.parametrize(
    ("profiles", "news"),
    [
        ([{}], {}),
        ([{"marketing_consent": False}], {"ada": "no_consent"}),
        ([{"erased_at": TEN}], {"ada": "erased"}),
        ([{"erased_at": TEN, "marketing_consent": False}], {"ada": "erased"}),
        ([{"marketing_consent": False}, {}], {}),
        ([{}, {"marketing_consent": False}], {"ada": "no_consent"}),
        # Rows after now are ignored.
        ([{}] * 11 + [{"marketing_consent": False}], {}),
    ],
)
def test_the_latest_profile_says_whether_somebody_may_be_told(
    warehouse: DuckDBWarehouse, profiles: list[dict[str, Any]], news: dict[str, str]
) -> None:
    for minutes, changes in enumerate(profiles):
        profile(warehouse, "ada", TEN + timedelta(minutes=minutes), **changes)
    assert recheck(warehouse).news() == news


@pytest.mark.parametrize(("days", "news"), [(0.9, {"ada": "no_consent"}), (1.1, {})])
def test_a_profile_that_the_app_dated_before_the_window_s_end_is_seen_for_a_day(
    warehouse: DuckDBWarehouse, days: float, news: dict[str, str]
) -> None:
    profile(warehouse, "ada", TEN - timedelta(days=days), marketing_consent=False)
    assert recheck(warehouse).news() == news


@pytest.mark.parametrize(
    ("profiles", "news"),
    [
        # Arrived after the window's end, written long before.
        ([{"updated_at": TEN - timedelta(days=400), "loaded_at": TEN, "marketing_consent": False}], "no_consent"),
        ([{"updated_at": TEN - timedelta(days=400), "loaded_at": TEN, "erased_at": TEN}], "erased"),
        (
            [{"updated_at": TEN - timedelta(days=2), "loaded_at": TEN - timedelta(days=2), "marketing_consent": False}],
            None,
        ),
        # Consent withdrawn and given again; the withdrawal arrives last. The version written last counts.
        (
            [
                {"updated_at": TEN - timedelta(days=9), "loaded_at": TEN, "marketing_consent": False},
                {"updated_at": TEN - timedelta(days=5), "loaded_at": TEN - timedelta(days=5)},
            ],
            None,
        ),
        # Two versions written at the same moment: the one that allows less counts.
        ([{"updated_at": TEN}, {"updated_at": TEN, "marketing_consent": False}], "no_consent"),
        ([{"updated_at": TEN, "marketing_consent": False}, {"updated_at": TEN}], "no_consent"),
        ([{"updated_at": TEN, "erased_at": TEN}, {"updated_at": TEN, "marketing_consent": False}], "erased"),
        # A wrong clock dated one version 2099; it arrived a week ago.
        (
            [
                {"updated_at": TEN.replace(year=2099), "loaded_at": TEN - timedelta(days=7)},
                {"updated_at": TEN, "loaded_at": TEN, "marketing_consent": False},
            ],
            "no_consent",
        ),
    ],
)
@pytest.mark.parametrize("is_turned", [False, True])
def test_no_withdrawal_is_missed_however_late_or_at_what_moment_it_comes(
    warehouse: DuckDBWarehouse, profiles: list[dict[str, Any]], news: str | None, is_turned: bool
) -> None:
    for changes in reversed(profiles) if is_turned else profiles:
        profile(warehouse, "ada", **changes)
    assert recheck(warehouse).news() == ({"ada": news} if news else {})


@pytest.mark.parametrize("days", [0.9, 1.1])
def test_an_app_whose_table_has_no_time_of_arrival_is_asked_by_the_time_of_writing(
    warehouse: DuckDBWarehouse, days: float
) -> None:
    profile(warehouse, "ada", TEN - timedelta(days=days), marketing_consent=False)
    warehouse.connection.execute("alter table raw.users drop column loaded_at")
    assert recheck(warehouse).news() == ({"ada": "no_consent"} if days < 1 else {})


def test_erasure_outweighs_an_outcome_and_an_outcome_a_consent(warehouse: DuckDBWarehouse) -> None:
    for user in ("ada", "bob"):
        event(warehouse, user, "filing_submitted", TEN)
    profile(warehouse, "ada", TEN, erased_at=TEN)
    profile(warehouse, "bob", TEN, marketing_consent=False)
    assert recheck(warehouse).news() == {"ada": "erased", "bob": "finished"}


def test_without_names_of_outcomes_consents_are_asked_after_all_the_same(warehouse: DuckDBWarehouse) -> None:
    profile(warehouse, "ada", TEN, marketing_consent=False)
    assert Recheck(warehouse, TEN, {}, lambda: LOOK).news() == {"ada": "no_consent"}


@pytest.mark.parametrize(
    ("second_look", "is_known"),
    [(timedelta(minutes=4, seconds=59), False), (timedelta(minutes=5), True), (timedelta(minutes=-1), True)],
)
def test_an_answer_is_good_for_five_minutes_and_a_clock_set_back_asks_again(
    warehouse: DuckDBWarehouse, second_look: timedelta, is_known: bool
) -> None:
    asking = recheck(warehouse, [LOOK, LOOK + second_look])
    assert asking.news() == {}
    event(warehouse, "ada", "filing_submitted", TEN)
    assert asking.news() == ({"ada": "finished"} if is_known else {})


# Which rows are dropped


@pytest.mark.parametrize(
    ("row", "news", "is_told"),
    [
        (row_of("ada", **GRANTED), "finished", False),
        (row_of("ada"), "finished", False),
        (row_of("ada"), "no_consent", False),
        (row_of("ada", before=SCORED | GRANTED, **FINISHED), "finished", True),
        (row_of("ada", before=SCORED | GRANTED, **FINISHED), "no_consent", True),
        (row_of("ada", before=SCORED | GRANTED, **FINISHED), "erased", False),
        # A withdrawal with a score is sent, because keeping the voucher would be worse.
        (row_of("ada", before=SCORED | GRANTED, churn_probability=0.2), "finished", True),
        (row_of("ada", before=SCORED | GRANTED, churn_probability=0.2), "erased", False),
        (row_of("ada", before=SCORED, **FINISHED), "closed", True),
        (row_of("ada", is_voucher_eligible=None, churn_probability=None), "gave_up", True),
        (row_of("ada", is_voucher_eligible=None), "gave_up", False),
    ],
)
def test_news_hold_back_what_grants_or_scores_and_never_what_takes_away(
    row: dict[str, Any], news: str, is_told: bool
) -> None:
    rows = pa.RecordBatch.from_pylist([row_of("zoe"), row], schema=PENDING)
    told, reasons = suppressed(rows, {"ada": news, "another user": "erased"})
    assert told.column("user_id").to_pylist() == (["zoe", "ada"] if is_told else ["zoe"])
    assert reasons == ({} if is_told else {news: 1})


@pytest.mark.parametrize("news", [{}, {"another user": "erased"}])
def test_without_news_of_anybody_pending_everybody_is_told(news: dict[str, str]) -> None:
    rows = pa.RecordBatch.from_pylist([row_of("ada"), row_of("bob", **GRANTED)], schema=PENDING)
    assert suppressed(rows, news) == (rows, {})


def test_a_read_of_no_rows_has_nobody_to_hold_back() -> None:
    rows = pa.RecordBatch.from_pylist([], schema=PENDING)
    assert suppressed(rows, {"ada": "erased"}) == (rows, {})


def test_a_sync_holds_grants_back_and_still_sends_withdrawals(warehouse: DuckDBWarehouse) -> None:
    for user, name in [
        ("granted", "filing_submitted"),
        ("withdrawn", "filing_submitted"),
        ("scored", "filing_deleted"),
    ]:
        event(warehouse, user, name, TEN)
    profile(warehouse, "erased", TEN, erased_at=TEN)
    pending(warehouse, "granted", **GRANTED)
    pending(warehouse, "withdrawn", before=SCORED | GRANTED, **FINISHED)
    pending(warehouse, "scored")
    pending(warehouse, "erased", before=SCORED | GRANTED, **FINISHED)
    pending(warehouse, "as before")
    crm = RecordingDestination()
    counts, stopped = run(warehouse, crm, plan(warehouse, recheck=recheck(warehouse)))
    assert crm.arrived == ["withdrawn", "as before"]
    assert outcomes(warehouse) == {"withdrawn": "delivered", "as before": "delivered"}
    assert (counts.differing, counts.suppressed) == (5, {"erased": 1, "finished": 1, "gave_up": 1})
    assert stopped is None


def test_who_has_a_fresh_tombstone_is_told_nothing_and_others_are(warehouse: DuckDBWarehouse) -> None:
    """A tombstone holds only the hash of an id, which is compared with the hashes of pending rows."""
    row: dict[str, Any] = {"erasure_id": "e1", "user_hash": hashlib.sha256(b"ada").hexdigest(), "step": "tombstone"}
    row |= {"requested_at": TEN, "recorded_at": TEN, "outcome": "written"}
    warehouse.append(ERASURES, pa.Table.from_pylist([row], schema=ERASURES.schema))
    pending(warehouse, "ada", before=SCORED | GRANTED, **FINISHED)
    pending(warehouse, "zoe")
    crm = RecordingDestination()
    counts, _ = run(warehouse, crm, plan(warehouse, recheck=recheck(warehouse)))
    assert (crm.arrived, counts.suppressed) == (["zoe"], {"erased": 1})


def test_news_that_come_while_the_sync_is_under_way_are_heeded(
    warehouse: DuckDBWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crm_sync.sync.READ_ROWS", 1)
    for user in ("ada", "bob"):
        pending(warehouse, user, **GRANTED)

    looks: list[datetime] = []

    def now() -> datetime:
        """Each call is five minutes later. Before the second call, a user finishes."""
        if len(looks) == 1:
            event(warehouse, "bob", "filing_submitted", TEN)
        looks.append(TEN + len(looks) * timedelta(minutes=5))
        return looks[-1]

    crm = RecordingDestination(max_batch=1)
    counts, _ = run(warehouse, crm, plan(warehouse, recheck=Recheck(warehouse, TEN, OUTCOMES, now)))
    assert (crm.arrived, counts.suppressed) == (["ada"], {"finished": 1})
