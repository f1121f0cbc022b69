"""Concurrency: two runs at once, or a run that a signal stops, lose nothing, repeat nothing and leave nothing stale."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.errors import RunInProgressError
from sandbox.local_crm.faults import Fault
from tests.support.data_tests import for_processes
from tests.support.environment import API_KEY, CONFIG, World
from warehouse.duckdb.holder import Holder, describe
from warehouse.duckdb.warehouse import DuckDBWarehouse

ROOT = Path(__file__).parents[2]
LEAVES_WITHIN_SECONDS = 8.0


def pauses(*arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The results of tests/support/crash/pause_matrix.py by place and mode."""
    command = [sys.executable, "-m", "tests.support.crash.pause_matrix", "--json", *arguments]
    run = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout, run.stderr
    said = json.loads(run.stdout)
    assert said["broken"] == []
    return {(case["place"], case["mode"]): case for case in said["cases"]}


def test_whoever_is_overtaken_amid_a_run_stops_and_the_next_run_makes_all_right() -> None:
    # Each place costs 25 s of a processor; make faults-test has all.
    places: tuple[str, ...] = ("after build features", "after append_once ops.runs", "before request POST /users/track")
    if os.environ.get("FAULTS") != "all":
        places = places[1:2]

    cases = pauses("--modes", "expired", "--places", ",".join(places))

    assert {place: case["violations"] for (place, _), case in cases.items()} == {place: [] for place in places}
    assert {case["first"] for case in cases.values()} == {"overtaken"}
    assert all(checked for case in cases.values() for checked, _ in case["laws"].values())


# Takes 184 s of processor time. Every test run covers BigQuery's faults (test_bigquery_faults) and leases (test_lease).
@pytest.mark.skipif(os.environ.get("FAULTS") != "all", reason="takes minutes: make faults-test")
def test_on_bigquery_a_process_that_slept_between_reply_and_log_stops_and_the_next_run_makes_all_right() -> None:
    place = "after request POST /users/track"

    (case,) = pauses("--warehouse", "bigquery", "--modes", "expired", "--places", place).values()

    assert case["violations"] == []
    assert (case["first"], case["second"]) == ("overtaken", "done")
    assert all(checked for checked, _ in case["laws"].values())


def environment(world: World) -> dict[str, str]:
    """The environment of `winback run`, with batches small enough for several per hour."""
    config = world.folder / "config"
    config.mkdir()
    for file in CONFIG.glob("*.yml"):
        (config / file.name).write_text(file.read_text())
    (config / "crm.yml").write_text("braze: {max_batch: 5, max_in_flight: 2}\n")
    return {
        "PATH": os.environ["PATH"],
        "WINBACK_WAREHOUSE": f"duckdb:///{world.folder / 'winback.duckdb'}",
        "WINBACK_MODELS": str(world.folder / "models"),
        "WINBACK_REGISTRY": "none",
        "WINBACK_CONFIG": str(config),
        **for_processes(),
        "WINBACK_DBT_TARGET": str(world.folder / "dbt"),
        "WINBACK_CRM_URL": world.crm.url,
        "WINBACK_CRM_API_KEY": API_KEY,
        "WINBACK_THREADS": "1",
    }


HOURLY = [sys.executable, "-m", "jobs", "run", "--until", "2026-05-20T20:00"]


def wait_for(happened: Any, process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds, while the process lives."""
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def test_a_run_told_to_leave_amid_the_sync_logs_what_was_acknowledged_and_the_next_sends_only_the_rest(
    world: World,
) -> None:
    variables = environment(world)
    # The first three batches succeed; all others get no reply.
    world.crm.desk.faults.waiting.append(Fault("hang", times=10_000, after=3))
    run = subprocess.Popen(HOURLY, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Both workers wait for a missing reply; all other replies have arrived.
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
    assert sorted(user for (user,) in writes) == logged, "a user was sent twice"
    assert json.loads(again.stdout)["sync"]["deferred"] == {}


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_run_interrupted_before_the_sync_says_so_and_the_next_does_it_all(
    world: World, which: signal.Signals
) -> None:
    variables = environment(world)
    with subprocess.Popen(
        HOURLY, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        next(line for line in run.stderr if "Building features" in line)
        run.send_signal(which)
        said = run.stderr.read().splitlines()[-1]

    assert run.returncode == 1
    assert f"Stopped by {which.name}. Nothing is left half done. Run it again." in said
    assert world.query("select epoch from ops.runs where epoch > 0") == []
    assert subprocess.run(HOURLY, check=False, cwd=ROOT, env=variables, capture_output=True).returncode == 0
    assert len(world.crm.store.profiles()) > 15


HOLDS = (
    "import duckdb, sys; c = duckdb.connect(sys.argv[-1], read_only={}); print('held', flush=True); sys.stdin.read()"
)


@contextmanager
def held(file: Path, arguments: list[str]) -> Iterator[int]:
    """A Python process with these arguments that holds the file; yields its process id."""
    command = [sys.executable, *arguments, str(file)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder.pid
    finally:
        holder.communicate()


def test_a_second_run_leaves_with_0_while_an_hourly_run_holds_the_file(world: World) -> None:
    program = world.folder / "winback"
    program.write_text(HOLDS.format(False))
    with held(world.folder / "winback.duckdb", [str(program), "run", "--json"]) as process:
        run = subprocess.run(HOURLY, check=False, cwd=ROOT, env=environment(world), capture_output=True, text=True)
    assert run.returncode == 0
    assert f"held by winback run, process {process}: another run is in progress" in run.stderr


def test_a_second_run_leaves_with_1_while_a_shell_holds_the_file_and_says_so(world: World) -> None:
    with held(world.folder / "winback.duckdb", ["-c", HOLDS.format(True)]) as process:
        run = subprocess.run(HOURLY, check=False, cwd=ROOT, env=environment(world), capture_output=True, text=True)
    assert run.returncode == 1
    assert f"process {process}. That is not an hourly run, and nothing was done." in run.stderr


HOLDERS: dict[str, tuple[list[str], str, bool]] = {
    "a run with a time": (["run", "--until", "2026-05-20T20:00"], "winback run", True),
    "a dry run does no work": (["run", "--dry-run"], "winback run --dry-run", False),
    "the nightly job": (["rebuild"], "winback rebuild", False),
    "an erasure, without its user": (["erase", "ada@example.com", "--yes"], "winback erase", False),
    "no command of ours": (["/data/hourly"], "winback", False),
}


@pytest.mark.parametrize("case", HOLDERS)
def test_whoever_finds_the_file_held_knows_by_which_command(tmp_path: Path, case: str) -> None:
    arguments, name, is_hourly = HOLDERS[case]
    program, file = tmp_path / "winback", tmp_path / "w.duckdb"
    program.write_text(HOLDS.format(False))
    with held(file, [str(program), *arguments]) as process, pytest.raises(RunInProgressError) as busy:
        DuckDBWarehouse(file)
    assert busy.value.is_hourly == is_hourly
    assert f"held by {name}, process {process}" in str(busy.value)
    assert "ada" not in str(busy.value)


LINES: dict[str, tuple[str, str, bool]] = {
    "as installed": ("/venv/bin/python3 /venv/bin/winback run", "winback run", True),
    "as a module": ("python -m jobs run --json", "winback run", True),
    "with options of Python": ("python3.11 -u -X dev -W error -m jobs run", "winback run", True),
    "a program without Python": ("/usr/local/bin/winback run", "winback run", True),
    "the demo runs its own hours": ("python -m jobs demo", "winback demo", False),
    "a notebook": (
        "/usr/bin/python3.11 -m ipykernel_launcher -f /tmp/ada.json",
        "python3.11 -m ipykernel_launcher",
        False,
    ),
    "a script named like a command": ("python hourly", "python hourly", False),
    "code that names the command": ("python -c winback run", "python", False),
    "another program over our file": ("duckdb /data/winback run", "duckdb", False),
    "nothing": ("", "an unknown program", False),
}


@pytest.mark.parametrize("case", LINES)
def test_a_command_line_is_known_by_its_program_and_command(case: str) -> None:
    line, name, is_hourly = LINES[case]
    assert describe(line.split()) == Holder(name, is_hourly)
