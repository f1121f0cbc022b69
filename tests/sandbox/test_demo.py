"""A small demo: its output, which contains no worrying line, and the commands that follow it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.transform.funnel import load_funnel
from sandbox import DEMO_CONFIG
from sandbox.demo_places import clear, places_of
from scoring.features_file import load_contract
from tests.support.environment import CONFIG, settings_in

NEXT = "winback backtest --until 2026-06-22T10:00 --every 1"


def winback(folder: Path, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CONFIG.parent), "COLUMNS": "200", **changes}
    command = [sys.executable, "-m", "jobs", *words]
    return subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without configuration, in which a CRM was opened before the demo."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(folder: Path) -> subprocess.CompletedProcess[str]:
    return winback(folder, "demo", "--users", "1500", "--hours", "1")


@pytest.fixture
def after(demo: subprocess.CompletedProcess[str], folder: Path, tmp_path: Path) -> Path:
    """A copy of the demo's results, beside the project's configuration."""
    assert demo.returncode == 0, demo.stderr
    shutil.copytree(folder / "var", tmp_path / "var")
    shutil.copytree(CONFIG, tmp_path / "config")
    return tmp_path


def test_the_demo_ends_well_and_says_where_to_look(demo: subprocess.CompletedProcess[str]) -> None:
    assert demo.returncode == 0, demo.stderr
    assert "The last hour, repeated, sent nothing." in demo.stdout
    assert NEXT in demo.stdout
    assert "Scored counts exits, sent counts users: " in demo.stdout


def test_its_clock_is_that_of_its_events_so_nothing_is_old(demo: subprocess.CompletedProcess[str]) -> None:
    """Without a terminal, a warning is a line with its own mark."""
    lines = [line.split("s  ", 1)[1] for line in demo.stderr.splitlines()]

    assert lines[:3] == ["Making a synthetic tax app", "Loading", "Building history"]
    assert [line for line in lines if not line[0].isupper()] == []
    assert "Training: looking for leaks" in lines
    assert [line for line in lines if line.startswith("!")] == []


def test_its_configuration_shapes_tables_and_features_as_the_projects_does() -> None:
    assert load_funnel(DEMO_CONFIG / "funnel.yml") == load_funnel(CONFIG / "funnel.yml")
    assert load_contract(DEMO_CONFIG / "features.yml") == load_contract(CONFIG / "features.yml")


def test_status_and_doctor_lead_on_to_the_next_hour_of_the_demo(after: Path) -> None:
    status, machine, doctor = winback(after, "status"), winback(after, "status", "--json"), winback(after, "doctor")

    for done in (status, doctor):
        assert NEXT in done.stdout
        assert "schedule" not in done.stdout
        assert "winback run" not in done.stdout
    found = json.loads(machine.stdout)
    assert (found["is_watermark_stale"], found["watermark_problem"]) == (False, None)
    assert NEXT in found["demo"]


def test_the_next_hour_runs_whatever_the_configuration_and_the_demo_can_be_made_again(after: Path) -> None:
    funnel = after / "config" / "funnel.yml"
    funnel.write_text(funnel.read_text().replace("session_gap_minutes: 30", "session_gap_minutes: 45"))

    done = winback(after, *NEXT.split()[1:], "--json")
    assert done.returncode == 0, done.stderr
    assert [run["window_until"] for run in json.loads(done.stdout)["runs"]] == ["2026-06-22T10:00:00+00:00"]
    places = places_of(settings_in(after / "var"))
    clear(places)  # as the next demo does at its start; the replayed hour belongs to the demo too
    assert not places.warehouse.exists()
    assert list(places.models.iterdir()) == []


def test_own_data_is_warned_of_when_it_is_loaded_and_never_deleted_by_the_next_demo(after: Path) -> None:
    (after / "own.csv").write_text(
        "event_id,user_id,event_name,occurred_at,loaded_at\n1,mine,app_opened,2026-06-25T10:00:00Z,2026-06-25T10:01:00Z\n"
    )
    loaded = winback(after, "load", "--events", "own.csv")
    before = (after / "var" / "winback.duckdb").read_bytes()

    again = winback(after, "demo")

    assert loaded.returncode == 0, loaded.stderr
    assert (
        "mixes with its synthetic users. Set WINBACK_WAREHOUSE and WINBACK_MODELS to places of your own"
        in loaded.stderr
    )
    assert again.returncode == 2
    assert "var/winback.duckdb: 1 rows of raw.app_events" in again.stderr
    assert (after / "var" / "winback.duckdb").read_bytes() == before
