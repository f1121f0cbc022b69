"""Random histories in Google's reference implementation: every model of an hourly run gives the same rows as on DuckDB."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.clock import UNIX_EPOCH
from jobs.transform.dbt import Window
from jobs.upkeep.missed_rows import Missed, find_missed
from tests.dbt.test_increments import FUNNEL
from tests.support import dbt_replay as windows
from tests.support.dbt_replay import Replay
from tests.support.event_streams import EXAMPLES, START, Event, Stream, arriving, few_or_many, minutes, rows_of, streams
from tests.support.google_sql import dbt_replay as google_windows
from tests.support.google_sql.dbt_replay import GoogleReplay
from warehouse.tables import APP_EVENTS, DECISIONS, DELIVERIES, RUNS, USERS, Table

STATE = (
    *("churn_probability", "churn_risk_band", "churn_reasons", "churn_scored_at", "churn_model_version"),
    *("is_voucher_eligible", "voucher_reason", "voucher_valid_until", "experiment_arm"),
)
# An event that joins two sessions, a duplicate in another window, an event too late, outcomes of every kind (one of them late),
# and an event that becomes visible after its window.
EVERYTHING = Stream(
    (
        Event(0, "app_opened", 0, (1,)),
        Event(0, "field_saved", 20, (500, 900)),
        Event(0, "field_saved", 40, (41, 5_000)),
        Event(1, "help_opened", 30, (4_400,)),
        Event(1, "field_saved", 4_000, (4_000,)),
        Event(1, "filing_submitted", 4_029, (4_700,)),
        Event(2, "app_opened", 4_300, (4_300,)),
        Event(2, "help_opened", 4_310, (4_312,), visible=4_790),
        Event(2, "field_saved", 4_330, (4_331,)),
        Event(2, "filing_rejected", 9_000, (9_000,)),
    ),
    100,
    ((100, 501), (501, 4_360), (4_360, 4_800), (4_800, 9_031)),
    frozenset({2}),
)
Versions = list[
    tuple[int, int, bool, int]
]  # user, minute of the update, consent, number of the step before which it arrives
versions = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 9_000), st.booleans(), st.integers(0, 4)),
    max_size=6,
    unique_by=lambda version: version[:2],
)


class Pair:
    """The same history in DuckDB and in Google's reference implementation."""

    def __init__(self, events: pa.Table) -> None:
        self.duckdb, self.google = Replay(events), GoogleReplay(events)
        self.epoch = 0
        self.audience_until: datetime | None = None

    def build(self, selector: str, window: Window) -> None:
        for replay in (self.duckdb, self.google):
            replay.build(selector, window)

    def arrive(self, events: pa.Table) -> None:
        """Add events that become visible now."""
        for replay in (self.duckdb, self.google):
            replay.warehouse.append(APP_EVENTS, events)

    def night(self, window: Window) -> Missed:
        """Search for events that no window processed, and build again from the first of them."""
        searched = UNIX_EPOCH + timedelta(days=99), window.until_at, window.history_until
        here, there = (find_missed(replay.warehouse, FUNNEL, *searched) for replay in (self.duckdb, self.google))
        assert here == there
        if here.build_from:
            self.build("features", replace(window, from_at=here.build_from))
        return here

    def append(self, table: Table, rows: list[dict[str, Any]]) -> None:
        self.duckdb.warehouse.append(table, pa.Table.from_pylist(rows, schema=table.schema))
        self.google.append(table, rows)

    def rows(self, title: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.duckdb.warehouse.query(f"select * from {title}").to_pylist()
        return found

    def decide(self, window: Window, seed: int) -> None:
        """Commit a run that decides at random about each candidate."""
        run_id = f"run-{self.epoch}"
        self.append(RUNS, [run_of(run_id, self.epoch, window)])
        made = [decision_of(row, run_id, self.epoch, window, seed) for row in self.rows("marts.fct_scoring_candidates")]
        if made:
            self.append(DECISIONS, made)

    def sync(self, window: Window, seed: int) -> None:
        """Build the audience and deliver it. About a third of the users is rejected, and a third gets no reply."""
        self.build("audience", replace(window, profiles_from=self.audience_until or window.history_until))
        self.audience_until = window.until_at
        every = self.rows("marts.crm_pending")
        assert alike(every) == alike(self.google.rows("marts.crm_pending"))
        pending = [row for row in every if row["suppressed_because"] is None]
        sent: list[dict[str, Any]] = []
        for row in sorted(pending, key=lambda row: str(row["user_id"])):
            common = {name: row[name] for name in STATE} | {
                "run_id": f"run-{self.epoch}",
                "epoch": self.epoch,
                "user_id": row["user_id"],
                "desired_hash": row["desired_hash"],
                "fields_sent": "",
            }
            fate = ["delivered", "rejected", None][drawn(row["user_id"], self.epoch, seed) % 3]
            told = [("sending", 0), (fate, 1)] if fate else [("sending", 0)]
            sent += [
                {**common, "outcome": outcome, "attempted_at": window.until_at + timedelta(seconds=n)}
                for outcome, n in told
            ]
        if sent:
            self.append(DELIVERIES, sent)
        self.epoch += 1

    def differences(self) -> dict[str, list[Any]]:
        """Return the rows that only one of the two has, by table, without tables that are equal."""
        found = {}
        for title in self.titles():
            here, there = alike(self.rows(title)), alike(self.google.rows(title))
            if here != there:
                found[title] = [*((here - there).elements()), *((there - here).elements())]
        return found

    def titles(self) -> list[str]:
        sql = """
            select table_schema || '.' || table_name from information_schema.tables
            where table_schema in ('staging', 'intermediate', 'marts') and table_name not like '%__dbt_tmp%'
        """
        return [row[0] for row in self.duckdb.rows(sql)]


def alike(rows: list[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    """Return the rows without an order of rows or columns."""
    return Counter(tuple(sorted(row.items())) for row in rows)


def drawn(*parts: object) -> int:
    """Return a number that depends only on the arguments."""
    return int(hashlib.md5(repr(parts).encode(), usedforsecurity=False).hexdigest()[:8], 16)


def run_of(run_id: str, epoch: int, window: Window) -> dict[str, Any]:
    times = {"window_from": window.from_at, "window_until": window.until_at, "committed_at": window.until_at}
    counts = dict.fromkeys(("count_exits", "count_scored", "count_skipped", "count_eligible"), 0)
    return {"epoch": epoch, "run_id": run_id, "kind": "hourly", **times, **counts}


def decision_of(row: dict[str, Any], run_id: str, epoch: int, window: Window, seed: int) -> dict[str, Any]:
    """Return a possible decision of a policy about a candidate."""
    decided = {name: row[name] for name in ("exit_id", "user_id", "exited_at", "skip_reason")}
    decided |= {"run_id": run_id, "epoch": epoch, "decided_at": window.until_at}
    if row["skip_reason"]:
        return decided | {"disposition": "skipped", "is_eligible": False}
    draw = drawn(row["exit_id"], seed)
    is_eligible = draw % 3 == 0
    return decided | {
        "disposition": "scored",
        "is_eligible": is_eligible,
        "churn_probability": draw % 10_001 / 10_000,
        "churn_risk_band": ["high", "medium", "low"][draw % 3],
        "churn_reasons": "Many pauses; An error was shown",
        "model_version": "m-1",
        "policy_version": "p-1",
        "experiment_arm": ["treatment", "treatment", "holdout"][draw % 3],
        "eligibility_reason": ["granted", "no_consent", "holdout"][draw % 3],
        "valid_until": window.until_at + timedelta(days=1 + draw % 5) if is_eligible else None,
    }


def profiles_of(found: Versions, step: int) -> list[dict[str, Any]]:
    return [
        {
            "user_id": f"u-{user}",
            "created_at": START,
            "updated_at": minutes(updated),
            # The arrival is unknown, at once, or up to four days later.
            "loaded_at": None if updated % 3 == 0 else minutes(updated + updated * 7 % 6_000),
            "marketing_consent": consent,
            "age": 18 + updated % 70,
            "income": updated / 7,
            "referral_source": ["ads", None, "friends"][updated % 3],
        }
        for user, updated, consent, number in found
        if number == step
    ]


def live(stream: Stream, found: Versions, seed: int, met: Counter[str]) -> Pair:
    """Build every window of the stream, decide and sync; then build the training examples of a later time."""
    pair = Pair(rows_of(()))
    for number, (selector, window, visible, is_night_next) in enumerate(arriving(stream)):
        pair.arrive(visible)
        if news := profiles_of(found, number):
            pair.append(USERS, news)
        pair.build(selector, window)
        if selector == "backfill":
            pair.append(RUNS, [run_of("run-0", 0, window)])
            pair.epoch = 1
        else:
            pair.decide(window, seed)
            pair.sync(window, seed)
        if is_night_next:
            met["events that a night found"] += pair.night(window).count_events
    later = Window(START, minutes(stream.until) + timedelta(days=20), minutes(stream.history))
    pair.build("examples", later)
    return pair


def shortened(stream: Stream) -> Stream:
    """Return the first two windows of a stream, unless EXAMPLES is set: each takes a second in the reference implementation."""
    return stream if EXAMPLES else replace(stream, windows=stream.windows[:2], nights=frozenset({1}))


@pytest.mark.timeout(0 if EXAMPLES else 900)
def test_any_history_leaves_the_same_rows_in_googles_parts_as_in_duckdb() -> None:
    met: Counter[str] = Counter({"events that a night found": 0})

    @few_or_many(1)
    @example(stream=EVERYTHING, found=[(user, 0, user != 1, 0) for user in range(3)], seed=107)
    @given(stream=streams().map(shortened), found=versions, seed=st.integers(0, 1_000))
    def law(stream: Stream, found: Versions, seed: int) -> None:
        pair = live(stream, found, seed, met)
        assert pair.differences() == {}
        met.update({title: len(pair.rows(title)) for title in pair.titles()})
        pair.duckdb.close()

    windows.recorded()  # outside of the property, so that a failure here is not reported as an example
    google_windows.recorded()
    law()

    assert {title for title, count in met.items() if not count} <= {"staging.stg_app__voucher_redemptions", *RARE}


# Tables that a few examples may leave empty.
RARE = {
    "staging.stg_ops__reports",
    "staging.stg_ops__shadow_scores",
    "marts.crm_sync_runs",
    "marts.fct_late_events",
    "marts.crm_pending",  # empty after everything is delivered; compared before each sync
    "marts.fct_scoring_candidates",
    "intermediate.int_exits_this_run",
    "intermediate.int_users_touched",
    "intermediate.int_sessions_this_run",
    "intermediate.int_users_set_aside",  # users whose rows break a rule
}
