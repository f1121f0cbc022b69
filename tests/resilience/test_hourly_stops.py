"""Stops of an hourly run before it decides or sends anything, and the effects that a dry run leaves out."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import xgboost as xgb

from core.errors import CircuitOpenError, ContractError, WatermarkAheadError
from jobs.hourly.run import hourly
from scoring.registry import bundles
from tests.support.environment import HISTORY_UNTIL, NOW, World, at, settings_in
from tests.support.run_assertions import assert_crm_holds_the_desired_state, delivered, restore_crm, take_crm_down


def test_a_dry_run_decides_nothing_and_sends_nothing(world: World) -> None:
    with world.context() as context:
        dry = hourly(context, at(1), dry_run=True)
    assert dry.scoring is not None
    assert dry.scoring.scored > 0
    assert world.query("select * from ops.decisions") == []
    assert world.crm.store.profiles() == {}

    wet = world.run(1)

    assert wet.scoring == dry.scoring


def test_a_dry_run_says_what_the_next_run_would_send_of_what_is_pending(world: World) -> None:
    take_crm_down(world)
    waiting = world.run(1).sync.deferred["unavailable"]
    restore_crm(world)

    with world.context(now=lambda: at(1) + timedelta(seconds=1)) as context:
        dry = hourly(context, at(1), dry_run=True)
    assert (dry.is_dry_run, dry.sync.delivered, len(dry.sync.samples)) == (True, waiting, 3)
    assert (world.crm.store.profiles(), delivered(world)) == ({}, [])

    wet = world.run(1)
    assert (wet.sync.differing, wet.sync.delivered, wet.sync.suppressed) == (
        dry.sync.differing,
        waiting,
        dry.sync.suppressed,
    )


def test_a_clock_behind_the_watermark_is_told_and_the_run_goes_on_once_it_is_right(world: World) -> None:
    world.run(1)

    with (
        world.context(now=lambda: at(0)) as context,
        pytest.raises(WatermarkAheadError, match="60 minutes ahead of now"),
    ):
        hourly(context)
    with world.context(now=lambda: at(1)) as context:
        late = hourly(context)

    assert (late.window_until, late.scoring, late.sync.requests) == (at(1), None, 0)


def test_a_run_says_what_is_missing(world: World, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ContractError, match="winback load"), world.context(settings=settings_in(empty)):
        pass
    with world.context() as context, pytest.raises(ContractError, match="before the watermark 2026-05-20 16:00"):
        hourly(context, at(-1))
    with world.context() as context, pytest.raises(ContractError, match="2026-06-01 00:01 UTC is in the future"):
        hourly(context, NOW + timedelta(minutes=1))
    with (
        world.context(settings=settings_in(world.folder, models=empty)) as context,
        pytest.raises(ContractError, match="winback train"),
    ):
        hourly(context, at(1))


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
    bundles.write_manifest(folder, version=version, trained_at=HISTORY_UNTIL, learned_until=HISTORY_UNTIL)

    with world.context() as context, pytest.raises(ContractError, match="column gone is absent"):
        hourly(context, at(1))

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
    bundles.write_manifest(models / version, version=version, trained_at=HISTORY_UNTIL, learned_until=HISTORY_UNTIL)

    with world.context() as context, pytest.raises(ContractError, match=r"All \d+ scores are 0\.5000"):
        hourly(context, at(24))

    assert world.query("select * from ops.decisions") == []
    assert world.crm.store.profiles() == {}


def test_an_audience_that_collapsed_is_sent_only_after_a_person_has_accepted_it(world: World) -> None:
    world.run(24)
    held = world.crm.store.profiles()
    for row in world.query("select user_id from marts.crm_profiles where churn_probability is not null"):
        world.append_profile(row["user_id"], at(24.5), marketing_consent=False)

    stopped = world.run(25)
    assert isinstance(stopped.stopped, CircuitOpenError)
    assert "winback run --allow-audience-drop" in str(stopped.stopped)
    assert world.crm.store.profiles() == held
    assert isinstance(world.run(26).stopped, CircuitOpenError)  # a stopped run does not update the audience

    with world.context(now=lambda: at(27) + timedelta(seconds=9)) as context:
        accepted = hourly(context, at(27), accept_audience=True)
    assert accepted.stopped is None
    assert accepted.sync.withdrawals > 0
    assert_crm_holds_the_desired_state(world)
