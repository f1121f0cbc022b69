"""Killed at any effect, does the next run end where an undisturbed one ends?"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.crm_server import LocalCrm
from tests.world import API_KEY, NOW, World, copy_history

ROOT = Path(__file__).parents[1]
HOURS = 1
# Places to die in an hour: before and after each of features, decisions, epoch, audience, a batch, its log, acknowledged, report.
PLACES = 16

# All that must be equal however often a run was killed; run ids and times of attempts may differ.
DECISIONS = """
    select exit_id, epoch, disposition, skip_reason, churn_probability, experiment_arm, is_eligible, eligibility_reason
    from staging.stg_ops__decisions order by exit_id
"""
PENDING = "select count(*) as n from marts.crm_pending"


def outcome(world: World) -> dict[str, Any]:
    return {
        "decisions": world.query(DECISIONS),
        "pending": world.query(PENDING),
        "epochs": world.query("select epoch, window_until, count_scored, count_eligible from ops.runs order by epoch"),
        "crm": world.crm.store.profiles(),
    }


def in_a_process(world: World, place: int) -> int:
    command = [sys.executable, "-m", "tests.killed_run", str(world.folder), world.crm.url, str(HOURS), str(place)]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True).returncode


@pytest.fixture(scope="module")
def undisturbed(history: Path, parsed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    copy_history(history, folder)
    with LocalCrm(folder / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        world = World(folder, crm, parsed)
        world.run(HOURS)
        found = outcome(world)
    assert len(found["crm"]) in range(1, 76), "one batch, so that PLACES are all there are"
    return found


@pytest.mark.parametrize("place", range(1, PLACES + 1))
def test_a_run_killed_at_any_effect_is_finished_by_the_next(
    world: World, undisturbed: dict[str, Any], place: int
) -> None:
    assert in_a_process(world, place) == -signal.SIGKILL

    world.run(HOURS)

    assert outcome(world) == undisturbed


def test_there_is_no_further_place_to_die(world: World, undisturbed: dict[str, Any]) -> None:
    assert in_a_process(world, PLACES + 1) == 0
    assert outcome(world) == undisturbed


def test_a_second_run_says_who_is_at_it_and_leaves_in_peace(world: World) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()",
            str(world.folder / "winback.duckdb"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        environment = {"WINBACK_WAREHOUSE": f"duckdb:///{world.folder / 'winback.duckdb'}", "PATH": ""}
        run = subprocess.run(
            [sys.executable, "-m", "jobs", "hourly"],
            check=False,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
    finally:
        holder.communicate()
    assert run.returncode == 0
    assert f"process {holder.pid}: another run is at it" in run.stderr
