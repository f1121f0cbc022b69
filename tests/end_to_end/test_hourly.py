"""Hourly run: it decides about the right users once and within the limits, and the CRM then holds the result."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from jobs.status import status
from tests.support.environment import HISTORY_UNTIL, World, at, settings_in
from tests.support.run_assertions import assert_crm_holds_the_desired_state, decisions, granted

pytestmark = pytest.mark.data_tests


def test_every_exit_is_decided_once_and_the_crm_follows(world: World) -> None:
    results = [world.run(hours) for hours in (1, 2, 3)]

    exits = world.query(
        f"select exit_id from marts.fct_unfinished_exits where not is_dissolved "
        f"and closed_at > timestamp '{HISTORY_UNTIL:%Y-%m-%d %H:%M}' order by exit_id"
    )
    made = decisions(world)
    assert [d["exit_id"] for d in made] == [e["exit_id"] for e in exits]
    assert sum(r.scoring.exits for r in results if r.scoring) == len(exits) > 0
    for result in results:
        assert result.scoring is not None
        assert result.scoring.exits == result.scoring.scored + sum(result.scoring.skipped.values())
        assert result.sync.differing == result.sync.delivered + sum(result.sync.suppressed.values())
        assert result.sync.delivered > 0
    assert_crm_holds_the_desired_state(world)
    assert granted(world)


def test_whoever_is_at_high_risk_or_gets_a_voucher_has_reasons(world: World) -> None:
    world.run(24)

    explained = [d for d in decisions(world) if d["churn_risk_band"] == "high" or d["is_eligible"]]
    assert len(explained) > 20
    assert all(d["churn_reasons"] for d in explained)
    assert all(len(d["churn_reasons"].split("; ")) <= 3 for d in explained)
    # Data that must not leave the warehouse is not in the output either.
    assert not [
        d for d in explained for word in ("income", "age ", "married", "contractor") if word in d["churn_reasons"]
    ]


def test_an_hour_repeated_decides_nothing_and_sends_nothing(world: World) -> None:
    world.run(1)
    before, requests_before = decisions(world), world.crm.store.latest_writes(10)

    again = world.run(1)

    assert (again.scoring, again.sync.requests, again.epoch) == (None, 0, 1)
    assert again.sync.differing == sum(again.sync.suppressed.values())
    assert decisions(world) == before
    assert world.crm.store.latest_writes(10) == requests_before


def test_who_finishes_loses_voucher_and_score(world: World) -> None:
    world.run(2)
    user = granted(world)[0]
    world.append_event(user, "filing_submitted", at(2.2), at(2.3))

    result = world.run(3)

    profile = world.crm.store.profile(user)
    assert profile is not None
    assert profile["voucher_eligible"] is False
    assert profile["voucher_reason"] == "finished"
    assert not {"churn_probability", "churn_risk_band", "churn_reasons", "voucher_valid_until"} & set(profile)
    assert result.sync.withdrawals >= 1
    assert_crm_holds_the_desired_state(world)


def test_an_outcome_too_late_for_the_sessions_still_takes_the_voucher(world: World) -> None:
    world.run(2)
    user = granted(world)[0]
    world.append_event(user, "filing_submitted", at(2.5) - timedelta(days=5), at(2.5))

    result = world.run(3)

    assert result.arrivals.too_late >= 1
    profile = world.crm.store.profile(user)
    assert profile is not None
    assert (profile["voucher_eligible"], profile["voucher_reason"]) == (False, "finished")


def test_who_withdraws_consent_loses_voucher_and_score(world: World) -> None:
    world.run(2)
    user = granted(world)[0]
    world.append_profile(user, at(2.5), marketing_consent=False)

    world.run(3)

    profile = world.crm.store.profile(user)
    assert profile is not None
    assert (profile["voucher_eligible"], profile["voucher_reason"]) == (False, "no_consent")
    assert "churn_probability" not in profile


def test_an_erased_user_is_never_written_again(world: World) -> None:
    world.run(2)
    user = granted(world)[0]
    before = world.crm.store.history(user)
    world.append_profile(user, at(2.5), erased_at=at(2.5))
    world.append_event(user, "filing_submitted", at(2.6), at(2.7))

    world.run(3)

    assert world.crm.store.history(user) == before


def test_a_voucher_ends_when_its_time_is_over(world: World) -> None:
    world.run(1)
    users = granted(world)

    world.run(1 + 7 * 24)

    sql = f"select user_id, voucher_reason from marts.crm_profiles where user_id in {tuple(users)} and is_voucher_eligible"
    assert world.query(sql) == []
    assert_crm_holds_the_desired_state(world)


def test_a_late_event_makes_a_new_exit_and_leaves_the_old_decision(world: World) -> None:
    world.run(2)
    before = decisions(world)
    scored = next(d for d in before if d["disposition"] == "scored")
    moved = scored["exited_at"] + timedelta(minutes=10)
    world.append_event(scored["user_id"], "help_opened", moved, at(2.5))

    world.run(3)

    after = decisions(world)
    assert [d for d in after if d["exit_id"] in {b["exit_id"] for b in before}] == before
    new = [d for d in after if d["user_id"] == scored["user_id"] and d["exited_at"] == moved]
    assert len(new) == 1
    assert new[0]["disposition"] == "scored"
    # A user who got a voucher an hour ago does not get a second one.
    if scored["is_eligible"]:
        assert new[0]["eligibility_reason"] == "cool_down"


def test_no_user_is_granted_twice_within_the_cool_down(world: World) -> None:
    for hours in (12, 24, 48, 96):
        world.run(hours)

    sql = "select user_id from staging.stg_ops__decisions where is_eligible group by user_id having count(*) > 1"
    assert world.query(sql) == []


def test_the_day_s_budget_holds_over_many_runs(world: World, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    for path in settings_in(world.folder).config.glob("*.yml"):
        text = (
            path.read_text()
            .replace("budget_per_day: 1000", "budget_per_day: 5")
            .replace("budget_per_run: 200", "budget_per_run: 3")
        )
        (config / path.name).write_text(text)
    settings = settings_in(world.folder, config=config)

    counts = [world.run(hours, settings=settings).scoring for hours in (1, 2, 3, 4)]

    assert [c.eligible for c in counts if c] == [3, 2, 0, 0]


def test_status_counts_what_the_runs_did(world: World) -> None:
    result = world.run(1)
    with world.context() as context:
        seen = status(context)

    assert seen.watermark == at(1)
    assert seen.count_epochs == 2
    assert (seen.pending, seen.dead_letters) == (0, 0)
    assert seen.voucher_eligible == len(granted(world))
    assert [r.count_delivered for r in seen.reports] == [result.sync.delivered]
