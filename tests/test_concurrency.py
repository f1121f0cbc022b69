"""When two runs are at it at once, or one is told to leave, is nothing lost, nothing doubled, and nothing left stale?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sandbox.crm_faults import Fault
from tests.world import API_KEY, CONFIG, World

ROOT = Path(__file__).parents[1]
LEAVES_WITHIN_SECONDS = 8.0


def pauses(*arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What tests/pause_matrix.py found, by place and mode."""
    command = [sys.executable, "-m", "tests.pause_matrix", "--json", *arguments]
    run = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout, run.stderr
    said = json.loads(run.stdout)
    assert said["broken"] == []
    return {(case["place"], case["mode"]): case for case in said["cases"]}


def test_whoever_is_overtaken_amid_a_run_stops_and_the_next_run_makes_all_right() -> None:
    places = ("after build features", "after append_once ops.runs", "before request POST /users/track")

    cases = pauses("--modes", "expired", "--places", ",".join(places))

    assert {place: case["violations"] for (place, _), case in cases.items()} == {place: [] for place in places}
    assert {case["first"] for case in cases.values()} == {"overtaken"}
    assert all(checked for case in cases.values() for checked, _ in case["laws"].values())


def test_on_bigquery_a_process_that_slept_between_reply_and_log_stops_and_the_next_run_makes_all_right() -> None:
    place = "after request POST /users/track"

    (case,) = pauses("--warehouse", "bigquery", "--modes", "expired", "--places", place).values()

    assert case["violations"] == []
    assert (case["first"], case["second"]) == ("overtaken", "done")
    assert all(checked for checked, _ in case["laws"].values())


def environment(world: World) -> dict[str, str]:
    """What `winback hourly` needs, with batches so small that one hour has several."""
    config = world.folder / "config"
    config.mkdir()
    for file in CONFIG.iterdir():
        (config / file.name).write_text(file.read_text())
    (config / "crm.yml").write_text("braze: {max_batch: 5, max_in_flight: 2}\n")
    return {
        "PATH": os.environ["PATH"],
        "WINBACK_WAREHOUSE": f"duckdb:///{world.folder / 'winback.duckdb'}",
        "WINBACK_MODELS": str(world.folder / "models"),
        "WINBACK_REGISTRY": "none",
        "WINBACK_CONFIG": str(config),
        "WINBACK_DBT_TARGET": str(world.folder / "dbt"),
        "WINBACK_CRM_URL": world.crm.url,
        "WINBACK_CRM_API_KEY": API_KEY,
        "WINBACK_THREADS": "1",
    }


HOURLY = [sys.executable, "-m", "jobs", "hourly", "--until", "2026-05-20T20:00"]


def wait_for(happened: Any, process: subprocess.Popen[str]) -> None:
    """Wait until something has happened, as long as the process lives."""
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def test_a_run_told_to_leave_amid_the_sync_logs_what_was_acknowledged_and_the_next_sends_only_the_rest(
    world: World,
) -> None:
    variables = environment(world)
    # The first three batches go well; no reply comes to any other.
    world.crm.desk.faults.waiting.append(Fault("hang", times=10_000, after=3))
    run = subprocess.Popen(HOURLY, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Both workers wait for a reply that does not come: all others are in.
    wait_for(lambda: world.crm.desk.faults.waiting[0].times == 9_998, run)

    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=LEAVES_WITHIN_SECONDS)

    assert run.returncode == 1, said
    assert "SIGTERM" in said
    acknowledged = world.crm.store.profiles()
    delivered = "select user_id from ops.deliveries where outcome = 'delivered' order by user_id"
    assert len(acknowledged) == 15
    assert [row["user_id"] for row in world.query(delivered)] == sorted(acknowledged)
    assert world.query("select epoch from ops.reports where epoch = 1") == []

    world.crm.desk.faults.waiting.clear()
    again = subprocess.run([*HOURLY, "--json"], check=False, cwd=ROOT, env=variables, capture_output=True, text=True)

    assert again.returncode == 0, again.stderr
    logged = [row["user_id"] for row in world.query(delivered)]
    assert logged == sorted(world.crm.store.profiles())
    assert len(logged) > 15
    writes = world.crm.store.database.rows("select external_id from writes")
    assert sorted(user for (user,) in writes) == logged, "nobody was sent anything twice"
    assert json.loads(again.stdout)["sync"]["deferred"] == {}


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
        run = subprocess.run(HOURLY, check=False, cwd=ROOT, env=environment(world), capture_output=True, text=True)
    finally:
        holder.communicate()
    assert run.returncode == 0
    assert f"process {holder.pid}: another run is at it" in run.stderr
