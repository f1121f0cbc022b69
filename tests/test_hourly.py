"""What does a run promise, on a real file and against a CRM that really answers?"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import xgboost as xgb

from crm_sync.changes import Change
from crm_sync.destination import Outcome
from crm_sync.destination import Run as SyncRun
from crm_sync.destinations.braze import Braze, BrazeOptions
from jobs import dead_letters
from jobs.hourly import hourly
from jobs.status import status
from scoring import bundles
from tests.world import API_KEY, HISTORY_UNTIL, NOW, World, at, settings_in
from warehouse.errors import CircuitOpenError, ContractError, RetryableError

# What the CRM must hold of a user, as its own attributes.
DESIRED = """
    select
        user_id, churn_probability, churn_risk_band, is_voucher_eligible, voucher_reason, voucher_valid_until, experiment_arm
    from marts.crm_profiles
"""


def decisions(world: World) -> list[dict[str, Any]]:
    return world.query("select * from staging.stg_ops__decisions order by exit_id")


def delivered(world: World) -> list[str]:
    sql = "select user_id from ops.deliveries where outcome = 'delivered' order by user_id"
    return [row["user_id"] for row in world.query(sql)]


def granted(world: World) -> list[str]:
    sql = "select user_id from marts.crm_profiles where is_voucher_eligible order by user_id"
    return [row["user_id"] for row in world.query(sql)]


def assert_crm_holds_the_desired_state(world: World) -> None:
    held = world.crm.store.profiles()
    for row in world.query(DESIRED):
        attributes = held.get(row["user_id"])
        if attributes is None:
            # The CRM is not told about somebody of whom there is nothing to say.
            assert row["churn_probability"] is None
            continue
        assert attributes["voucher_eligible"] == row["is_voucher_eligible"]
        assert attributes["voucher_reason"] == row["voucher_reason"]
        assert attributes["experiment_arm"] == row["experiment_arm"]
        assert attributes.get("churn_risk_band") == row["churn_risk_band"]
        if row["churn_probability"] is None:
            assert "churn_probability" not in attributes
        else:
            assert attributes["churn_probability"] == pytest.approx(row["churn_probability"], abs=0.05)


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
    # What must not leave the warehouse does not leave it in words either.
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


def test_a_crm_that_is_down_defers_and_the_next_run_delivers_the_same_decisions(world: World) -> None:
    fault = {"kind": "status", "status": 503, "times": 1_000}
    requests.post(f"{world.crm.url}/_control/faults", json=fault, timeout=5).raise_for_status()
    down = world.run(1)
    made = decisions(world)
    assert isinstance(down.stopped, RetryableError)
    waiting = down.sync.differing - sum(down.sync.suppressed.values())
    assert (down.sync.delivered, down.sync.deferred) == (0, {"unavailable": waiting})
    assert world.crm.store.profiles() == {}

    requests.delete(f"{world.crm.url}/_control/faults", timeout=5).raise_for_status()
    up = world.run(1)

    assert up.stopped is None
    assert up.sync.delivered == waiting > 0
    assert decisions(world) == made
    assert_crm_holds_the_desired_state(world)


def test_a_lost_reply_costs_one_more_upsert_and_nothing_else(world: World) -> None:
    fault = {"kind": "lose_reply", "times": 1}
    requests.post(f"{world.crm.url}/_control/faults", json=fault, timeout=5).raise_for_status()

    result = world.run(1)

    assert result.sync.delivered == result.sync.differing - sum(result.sync.suppressed.values()) > 0
    assert len(delivered(world)) == result.sync.delivered
    assert_crm_holds_the_desired_state(world)


def test_a_rejected_user_waits_as_a_dead_letter_until_a_person_asks(world: World) -> None:
    with world.house() as house:
        plan = hourly(house, at(1), dry_run=True)
    assert plan.scoring is not None
    user = world.query("select user_id from marts.fct_scoring_candidates where has_marketing_consent order by user_id")[
        0
    ]["user_id"]
    fault = {"kind": "row_error", "external_ids": [user]}
    requests.post(f"{world.crm.url}/_control/faults", json=fault, timeout=5).raise_for_status()

    first, second = world.run(1), world.run(1)

    assert (first.sync.rejected, second.sync.requests) == (1, 0)
    requests.delete(f"{world.crm.url}/_control/faults", timeout=5).raise_for_status()
    with world.house() as house:
        assert [row["count_users"] for row in dead_letters.listed(house)] == [1]
        assert dead_letters.retry(house) == 1
        assert dead_letters.listed(house) == []
    third = world.run(1)
    assert third.sync.delivered == 1
    assert world.crm.store.profile(user) is not None


def test_the_circuit_opens_when_most_users_are_rejected(world: World) -> None:
    with world.house() as house:
        hourly(house, at(24), dry_run=True)
    users = [row["user_id"] for row in world.query("select distinct user_id from marts.fct_scoring_candidates")]
    fault = {"kind": "row_error", "external_ids": users}
    requests.post(f"{world.crm.url}/_control/faults", json=fault, timeout=5).raise_for_status()

    one_at_a_time = Braze(world.crm.url, API_KEY, BrazeOptions(max_in_flight=1))
    result = world.run(24, destination=one_at_a_time)

    assert isinstance(result.stopped, CircuitOpenError)
    assert result.stopped.exit_code == 3
    assert result.sync.rejected == 75  # one batch, and no second
    assert result.sync.is_complete
    assert list(result.sync.deferred) == ["circuit_open"]


def test_a_dry_run_decides_nothing_and_sends_nothing(world: World) -> None:
    with world.house() as house:
        dry = hourly(house, at(1), dry_run=True)
    assert dry.scoring is not None
    assert dry.scoring.scored > 0
    assert world.query("select * from ops.decisions") == []
    assert world.crm.store.profiles() == {}

    wet = world.run(1)

    assert wet.scoring == dry.scoring


def test_a_dry_run_says_what_the_next_run_would_send_of_what_is_pending(world: World) -> None:
    fault = {"kind": "status", "status": 503, "times": 1_000}
    requests.post(f"{world.crm.url}/_control/faults", json=fault, timeout=5).raise_for_status()
    waiting = world.run(1).sync.deferred["unavailable"]
    requests.delete(f"{world.crm.url}/_control/faults", timeout=5).raise_for_status()

    with world.house(now=lambda: at(1) + timedelta(seconds=1)) as house:
        dry = hourly(house, at(1), dry_run=True)
    assert (dry.is_dry_run, dry.sync.delivered, len(dry.sync.samples)) == (True, waiting, 3)
    assert (world.crm.store.profiles(), delivered(world)) == ({}, [])

    wet = world.run(1)
    assert (wet.sync.differing, wet.sync.delivered, wet.sync.suppressed) == (
        dry.sync.differing,
        waiting,
        dry.sync.suppressed,
    )


def test_a_run_told_to_stop_while_it_sends_logs_what_was_acknowledged_and_the_next_does_the_rest(world: World) -> None:
    class Stopped(Braze):
        def send(self, batch: Sequence[Change], run: SyncRun) -> list[Outcome]:
            outcomes = super().send(batch, run)
            os.kill(os.getpid(), signal.SIGTERM)
            return outcomes

    few = BrazeOptions(max_batch=5, max_in_flight=1)
    with pytest.raises(RetryableError, match=r"told to stop \(SIGTERM\)"):
        world.run(1, destination=Stopped(world.crm.url, API_KEY, few))
    assert len(delivered(world)) == 5
    assert set(delivered(world)) == set(world.crm.store.profiles())

    rest = world.run(1)
    assert rest.stopped is None
    assert_crm_holds_the_desired_state(world)
    assert len(delivered(world)) == 5 + rest.sync.delivered


def test_an_audience_that_collapsed_is_sent_only_after_a_person_has_accepted_it(world: World) -> None:
    world.run(24)
    held = world.crm.store.profiles()
    for row in world.query("select user_id from marts.crm_profiles where churn_probability is not null"):
        world.append_profile(row["user_id"], at(24.5), marketing_consent=False)

    stopped = world.run(25)
    assert isinstance(stopped.stopped, CircuitOpenError)
    assert "winback hourly --accept-audience" in str(stopped.stopped)
    assert world.crm.store.profiles() == held
    assert isinstance(world.run(26).stopped, CircuitOpenError)  # of a stopped run nothing was learned

    with world.house(now=lambda: at(27) + timedelta(seconds=9)) as house:
        accepted = hourly(house, at(27), accept_audience=True)
    assert accepted.stopped is None
    assert accepted.sync.withdrawals > 0
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
    # Whoever was granted a voucher an hour ago gets no second one.
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
    for path in settings_in(world.folder).config.iterdir():
        text = (
            path.read_text()
            .replace("budget_per_day: 1000", "budget_per_day: 5")
            .replace("budget_per_run: 200", "budget_per_run: 3")
        )
        (config / path.name).write_text(text)
    settings = settings_in(world.folder, config=config)

    counts = [world.run(hours, settings=settings).scoring for hours in (1, 2, 3, 4)]

    assert [c.eligible for c in counts if c] == [3, 2, 0, 0]


def test_a_clock_behind_the_watermark_still_delivers_what_is_pending(world: World) -> None:
    world.run(1)

    with world.house(now=lambda: at(0)) as house:
        late = hourly(house)

    assert (late.window_until, late.scoring, late.sync.requests) == (at(1), None, 0)


def test_a_run_says_what_is_missing(world: World, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ContractError, match="winback load"), world.house(settings=settings_in(empty)):
        pass
    with world.house() as house, pytest.raises(ContractError, match="before the watermark 2026-05-20 16:00"):
        hourly(house, at(-1))
    with world.house() as house, pytest.raises(ContractError, match="2026-06-01 00:01 UTC lies in the future"):
        hourly(house, NOW + timedelta(minutes=1))
    with (
        world.house(settings=settings_in(world.folder, models=empty)) as house,
        pytest.raises(ContractError, match="winback train"),
    ):
        hourly(house, at(1))


def test_a_mart_without_a_feature_stops_the_run_before_anything_is_decided(world: World) -> None:
    models = world.folder / "models"
    version = bundles.champion(models)
    assert version is not None
    folder = models / version
    contract = bundles.load_bundle(models, version).contract
    renamed = contract.model_copy(
        update={"features": (contract.features[0].model_copy(update={"name": "gone"}), *contract.features[1:])}
    )
    (folder / "contract.json").write_text(renamed.model_dump_json())
    bundles.seal(folder, version=version, trained_at=HISTORY_UNTIL)

    with world.house() as house, pytest.raises(ContractError, match="column gone is absent"):
        hourly(house, at(1))

    assert world.query("select * from ops.decisions") == []
    assert len(world.query("select * from ops.runs")) == 1
    assert world.crm.store.profiles() == {}


def test_one_score_for_everybody_stops_the_run_before_anything_is_decided(world: World) -> None:
    models = world.folder / "models"
    version = bundles.champion(models)
    assert version is not None
    contract = bundles.load_bundle(models, version).contract
    nothing = np.zeros((4, len(contract.features)), dtype=np.float32)
    data = xgb.DMatrix(
        nothing,
        [0, 1, 0, 1],
        feature_names=contract.names,
        feature_types=contract.feature_types,
        enable_categorical=True,
    )
    xgb.train({"objective": "binary:logistic"}, data, num_boost_round=1).save_model(models / version / "model.json")
    bundles.seal(models / version, version=version, trained_at=HISTORY_UNTIL)

    with world.house() as house, pytest.raises(ContractError, match=r"All \d+ scores are 0\.5000"):
        hourly(house, at(24))

    assert world.query("select * from ops.decisions") == []
    assert world.crm.store.profiles() == {}


def test_a_dead_letter_is_tried_again_when_there_is_something_new_to_say(world: World) -> None:
    with world.house() as house:
        hourly(house, at(1), dry_run=True)
    sql = "select user_id from marts.fct_scoring_candidates where has_marketing_consent order by user_id"
    user = world.query(sql)[0]["user_id"]
    requests.post(
        f"{world.crm.url}/_control/faults", json={"kind": "row_error", "external_ids": [user]}, timeout=5
    ).raise_for_status()
    assert world.run(1).sync.rejected == 1
    requests.delete(f"{world.crm.url}/_control/faults", timeout=5).raise_for_status()

    world.append_event(user, "help_opened", at(1.1), at(1.2))
    world.run(2)

    assert world.crm.store.profile(user) is not None


def test_status_counts_what_the_runs_did(world: World) -> None:
    result = world.run(1)
    with world.house() as house:
        seen = status(house)

    assert seen.watermark == at(1)
    assert seen.count_epochs == 2
    assert (seen.pending, seen.dead_letters) == (0, 0)
    assert seen.voucher_eligible == len(granted(world))
    assert [r.count_delivered for r in seen.reports] == [result.sync.delivered]
