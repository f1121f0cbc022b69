"""Shadow scoring: the challenger scores the same exits, nothing is sent, and its failure never stops a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.progress import NullProgress
from jobs.erasure.erase import erase
from jobs.hourly.run import Result, hourly
from jobs.hourly.shadow import ShadowResult
from scoring.calibration import Calibration
from scoring.registry import bundles
from scoring.registry.folder import CHALLENGER
from tests.support.challenger import VERSION, challenge, write_manifest
from tests.support.environment import World, at, settings_in
from warehouse.ledger import Epoch

SCORES = "select * from staging.stg_ops__shadow_scores order by exit_id"
SCORED = """
    select exit_id, user_id, run_id, decided_at from staging.stg_ops__decisions
    where disposition = 'scored' order by exit_id
"""


class RateLimitInfo(NullProgress):
    """Records warnings."""

    def __init__(self) -> None:
        self.warnings: list[dict[str, Any]] = []

    def warn(self, what: str, **facts: Any) -> None:
        self.warnings.append({"what": what, **facts})


def run(world: World, hours: float, **parts: Any) -> Result:
    return world.run(hours, settings=settings_in(world.folder, shadow=True), **parts)


def test_the_challenger_scores_the_exits_that_the_champion_scores_and_nothing_of_it_is_sent(world: World) -> None:
    challenge(world)
    result = run(world, 6)

    scores = world.query(SCORES)
    scored = world.query(SCORED)
    assert result.shadow == ShadowResult(VERSION, len(scored))
    assert [(r["exit_id"], r["user_id"], r["run_id"], r["scored_at"]) for r in scores] == [
        tuple(r.values()) for r in scored
    ]
    assert {row["model_version"] for row in scores} == {VERSION}
    assert all(0 < row["churn_probability"] < 1 for row in scores)
    told = json.dumps(world.crm.store.profiles(), default=str)
    assert told != "{}"
    assert VERSION not in told
    decided = world.query("select distinct model_version from staging.stg_ops__decisions where disposition = 'scored'")
    assert decided == [{"model_version": result.model_version}]


def test_a_shadow_changes_no_decision(world: World, history: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    sql = "select * exclude (run_id) from staging.stg_ops__decisions order by exit_id"
    challenge(world)
    saved = tmp_path_factory.mktemp("before") / "winback.duckdb"
    shutil.copy(world.folder / "winback.duckdb", saved)
    run(world, 2)
    shadowed = world.query(sql)
    shutil.copy(saved, world.folder / "winback.duckdb")
    world.run(2)
    assert world.query(sql) == shadowed


def test_by_default_and_in_a_dry_run_there_is_no_shadow(world: World) -> None:
    challenge(world)
    assert world.run(1).shadow is None
    with world.context(settings=settings_in(world.folder, shadow=True), now=lambda: at(2)) as context:
        assert hourly(context, at(2), dry_run=True).shadow is None
    assert world.query("select * from ops.shadow_scores") == []


def test_without_a_challenger_nothing_is_scored_and_nothing_warned_of(world: World) -> None:
    heard = RateLimitInfo()
    assert run(world, 1, reporter=heard).shadow == ShadowResult(None)
    bundles.point(world.folder / "models", CHALLENGER, bundles.champion(world.folder / "models"))
    assert run(world, 2, reporter=heard).shadow == ShadowResult(None)
    assert heard.warnings == []


def lose_a_file(folder: Path) -> None:
    (folder / "model.json").unlink()


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "model.json").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.json").write_bytes(content)


def ask_for_another_column(folder: Path) -> None:
    contract = json.loads((folder / "contract.json").read_text())
    contract["features"][0]["name"] = "gone"
    (folder / "contract.json").write_text(json.dumps(contract))
    write_manifest(folder)


def say_the_same_of_all(folder: Path) -> None:
    (folder / "calibration.json").write_text(
        Calibration(kind="isotonic", raw=(0.0, 1.0), true=(0.5, 0.5)).model_dump_json()
    )
    write_manifest(folder)


def be_no_model(folder: Path) -> None:
    (folder / "model.json").write_text("{}")
    write_manifest(folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lose_a_file, "model.json is missing or was altered"),
        (flip_a_byte, "model.json is missing or was altered"),
        (ask_for_another_column, "column gone is absent"),
        (say_the_same_of_all, "scores are 0.5000"),
        (be_no_model, "model.json cannot be used (XGBoost cannot read it)"),
        (shutil.rmtree, f"A complete model bundle {VERSION} does not exist"),
    ],
)
def test_a_challenger_that_fails_is_warned_of_once_and_the_run_is_whole(
    spoil: Callable[[Path], None], says: str, world: World
) -> None:
    spoil(challenge(world))
    heard = RateLimitInfo()
    result = run(world, 24, reporter=heard)

    assert result.shadow
    assert (result.shadow.model_version, result.shadow.scored) == (VERSION, 0)
    assert says in (result.shadow.problem or "")
    # The run also warns that its watermark is a day old.
    assert [warning["problem"] for warning in heard.warnings if "problem" in warning] == [result.shadow.problem]
    assert result.scoring
    assert result.scoring.scored == len(world.query(SCORED)) > 50
    assert result.sync.delivered > 0
    assert world.query("select * from ops.shadow_scores") == []


def test_a_run_that_died_after_its_shadow_leaves_nothing_that_counts_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenge(world)

    def killed(*_: Any) -> Epoch:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jobs.hourly.run.ledger.commit", killed)
        with pytest.raises(KeyboardInterrupt):
            run(world, 6)
    assert world.query("select * from ops.shadow_scores") != []
    assert world.query(SCORES) == []

    run(world, 6)

    assert [row["exit_id"] for row in world.query(SCORES)] == [row["exit_id"] for row in world.query(SCORED)]


def test_a_run_that_was_overtaken_takes_its_shadow_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    challenge(world)
    winner = run(world, 3)
    mine = world.query("select count(*) as n from ops.shadow_scores")

    def another(warehouse: Any, epoch: Epoch) -> Epoch:
        row = world_epoch(warehouse)
        assert row.run_id == winner.run_id
        return row

    def world_epoch(warehouse: Any) -> Epoch:
        from warehouse.ledger import last_epoch  # noqa: PLC0415 - the one that is not replaced

        found = last_epoch(warehouse)
        assert found
        return found

    monkeypatch.setattr("jobs.hourly.run.ledger.commit", another)
    run(world, 9)
    assert world.query("select count(*) as n from ops.shadow_scores") == mine


def test_an_erased_users_shadow_scores_are_deleted(world: World) -> None:
    challenge(world)
    run(world, 6)
    before = world.query(SCORES)
    user = before[0]["user_id"]
    with world.context() as context:
        erased = erase(context, user)
    left = world.query("select user_id from ops.shadow_scores")
    assert user not in {row["user_id"] for row in left}
    receipt = next(r for r in erased.receipts if r.step == "ops.shadow_scores")
    assert (receipt.outcome, receipt.count_rows) == ("deleted", len(before) - len(left))
