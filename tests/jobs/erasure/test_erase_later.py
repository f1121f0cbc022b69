"""An erased user stays erased, whatever arrives later, and whatever runs at the same time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from crm_sync.deadline import Deadline
from crm_sync.diff import Change
from crm_sync.suppression import Recheck, suppressed
from jobs.erasure.erase import Erased, erase, purge_reappeared_rows, re_erase_recent
from jobs.hourly.run import hourly
from jobs.transform.dbt import Transform
from jobs.upkeep.nightly import nightly
from tests.support.builders.erase import (
    ELIGIBLE,
    RECEIPTS,
    eligible,
    erased,
    erased_and_killed,
    new_session,
    outcomes,
    places_of,
)
from tests.support.environment import NOW, World, at
from tests.support.run_assertions import restore_crm, take_crm_down


def test_what_arrives_later_of_an_erased_user_is_neither_decided_nor_sent(told: World) -> None:
    gone, other = (row["user_id"] for row in told.query(f"{ELIGIBLE} limit 2"))
    profile = told.query(f"select * from raw.users where user_id = '{gone}'")[0]
    erased(told, gone, now=lambda: at(7))
    for user in (gone, other):
        new_session(told, user, profile)

    told.run(8)

    decided = told.query(f"select distinct user_id from ops.decisions where decided_at > '{at(6):%Y-%m-%d %H:%M}'")
    assert other in {row["user_id"] for row in decided}
    assert told.crm.store.profile(gone) is None
    assert places_of(told, gone) == ["raw.app_events.event_id", "raw.app_events.user_id", "raw.users.user_id"]


def test_the_night_deletes_what_arrived_of_an_erased_user_and_what_a_build_wrote_back(told: World) -> None:
    user = eligible(told)
    profile = told.query(f"select * from raw.users where user_id = '{user}'")[0]
    told.query("create table kept as select * from intermediate.int_sessions")
    erased(told, user)
    new_session(told, user, profile)
    told.query(f"insert into intermediate.int_sessions select * from kept where user_id = '{user}'")
    told.query("drop table kept")
    assert "intermediate.int_sessions.user_id" in places_of(told, user)

    with told.context() as context:
        night = nightly(context)

    assert places_of(told, user) == []
    assert not night.is_corrected


def test_a_sweep_long_after_looks_only_where_rows_may_still_arrive(told: World) -> None:
    with told.context() as context:
        assert purge_reappeared_rows(context) == {}
    erased(told, eligible(told))

    with told.context(now=lambda: NOW + timedelta(days=9)) as context:
        assert purge_reappeared_rows(context) == {"raw.app_events": 0, "raw.users": 0, "raw.voucher_redemptions": 0}


@pytest.mark.parametrize("selector", ["features", "audience", "acknowledged"])
def test_a_user_erased_in_the_middle_of_a_run_is_gone_at_its_end(
    told: World, monkeypatch: pytest.MonkeyPatch, selector: str
) -> None:
    user = eligible(told)
    new_session(told, user, told.query(f"select * from raw.users where user_id = '{user}'")[0])
    build = Transform.build
    asked: list[Erased] = []

    def interrupted(self: Transform, selected: str, **options: Any) -> None:
        if selected == selector and not asked:
            asked.append(erase(context, user))
        build(self, selected, **options)

    monkeypatch.setattr(Transform, "build", interrupted)
    with told.context() as context:
        hourly(context, at(8))

    assert len(asked) == 1
    assert places_of(told, user) == []
    assert told.crm.store.profile(user) is None


def test_an_erasure_that_came_no_further_than_its_tombstone_keeps_the_user_from_the_crm(world: World) -> None:
    take_crm_down(world)
    world.run(6)
    restore_crm(world)
    user = world.query(ELIGIBLE)[0]["user_id"]
    erased_and_killed(world, user, 2)
    assert outcomes(world) == {"tombstone": "written"}
    assert world.query(f"select 1 from marts.crm_pending where user_id = '{user}'")

    # Independent of how long ago that was.
    result = world.run(6, now=lambda: NOW + timedelta(days=30))

    # Staging hides the user, and the CRM never received them, so there is nothing to send or to hold back.
    assert world.query(f"select 1 from marts.crm_pending where user_id = '{user}'") == []
    assert world.crm.store.profile(user) is None
    assert len(world.crm.store.profiles()) == result.sync.delivered > 10


@pytest.mark.parametrize(("days", "is_held_back"), [(0, True), (1, True), (3, False)])
def test_of_a_finished_erasure_a_sync_need_not_know_once_two_nights_have_passed(
    told: World, days: int, is_held_back: bool
) -> None:
    user = eligible(told)
    rows = pa.RecordBatch.from_pylist(
        [
            {"user_id": each, "churn_probability": 0.5, "is_voucher_eligible": False, "is_withdrawal": True}
            for each in (user, "another")
        ]
    )
    erased(told, user)
    with told.context() as context:
        news = Recheck(context.warehouse, NOW + timedelta(days=days), {}, lambda: NOW).news()

    kept, reasons = suppressed(rows, news)

    assert kept.column("user_id").to_pylist() == (["another"] if is_held_back else [user, "another"])
    assert reasons == ({"erased": 1} if is_held_back else {})


def overtake(world: World, user: str, since: datetime) -> None:
    """Simulate a batch in flight during the erasure: sent to the CRM, and logged after the tables were done."""
    destination = world.destination()
    destination.send([Change(user, {"churn_risk_band": "high"})], Deadline("late", 60))
    destination.close()
    world.query(
        f"""
        insert into ops.deliveries by name
        select * replace ('{user}' as user_id, timestamp '{since:%Y-%m-%d %H:%M:%S}' as attempted_at)
        from ops.deliveries limit 1
        """
    )


def test_whom_a_batch_under_way_made_anew_the_run_erases_again(told: World) -> None:
    user = eligible(told)
    erased(told, user)
    overtake(told, user, NOW)
    assert told.crm.store.profile(user)

    with told.context() as context:
        assert re_erase_recent(context, NOW, Deadline("run", 60)) == 1
        assert re_erase_recent(context, NOW, Deadline("run", 60)) == 0

    assert told.crm.store.profile(user) is None
    assert places_of(told, user) == []
    assert [r["outcome"] for r in told.query(RECEIPTS) if r["step"] == "crm"] == ["deleted", "deleted"]
    assert len(told.crm.store.profiles()) > 10


def test_where_the_crm_does_not_answer_the_next_run_erases_again(told: World) -> None:
    user = eligible(told)
    erased(told, user)
    overtake(told, user, NOW)
    take_crm_down(told)
    with told.context() as context:
        assert re_erase_recent(context, NOW, Deadline("run", 60)) == 0
    restore_crm(told)
    assert outcomes(told)["crm"] == "deferred"

    with told.context() as context:
        purge_reappeared_rows(context)
        assert re_erase_recent(context, NOW + timedelta(hours=1), Deadline("run", 60)) == 1

    assert told.crm.store.profile(user) is None
    assert places_of(told, user) == []
    assert sorted(r["outcome"] for r in told.query(RECEIPTS) if r["step"] == "crm") == [
        "deferred",
        "deleted",
        "deleted",
    ]


def test_without_a_recent_tombstone_nobody_is_erased_again(told: World) -> None:
    user = eligible(told)
    told.query(
        f"""
        insert into ops.erasures by name select 'old' as erasure_id, sha256('{user}') as user_hash, 'tombstone' as step,
        'written' as outcome, timestamp '2026-05-01' as requested_at, timestamp '2026-05-01' as recorded_at
        """
    )
    with told.context() as context:
        assert re_erase_recent(context, NOW, Deadline("run", 60)) == 0
    assert told.crm.store.profile(user)
