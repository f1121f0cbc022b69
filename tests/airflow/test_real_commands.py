"""DAGs that run real commands on a small warehouse: the nightly rebuild, the audit and a training succeed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import HOUSE

WINBACK = HOUSE / ".venv" / "bin" / "winback"
PYTHON = WINBACK.parent / "python"
SUNDAY = datetime(2026, 6, 7, 2, 35, tzinfo=UTC)
MONDAY = datetime(2026, 6, 8, 5, 15, tzinfo=UTC)
# A season of the synthetic app, made in the environment that has its libraries.
SEASON = """
import sys
from datetime import date
from pathlib import Path
from sandbox.synthetic_app import generate
generate(seed=1, count_users=4_000, starts_on=date(2026, 3, 10), count_days=90).write(Path(sys.argv[1]))
"""
# Half of the users are in the test set, and calibration may be rough: a season this small has few exits.
TRAINING = "judged_users_ratio: 0.5\nsearch: {trials: 0}\nchallenge: {min_examples: 100, max_calibration_error: 0.15}\n"

pytestmark = pytest.mark.skipif(not WINBACK.exists(), reason="winback is not installed in .venv: make test does it")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    """Settings that make the commands work in a folder of their own."""
    return {
        "WINBACK_WAREHOUSE": f"duckdb:///{tmp_path}/winback.duckdb",
        "WINBACK_MODELS": str(tmp_path / "models"),
        "WINBACK_CONFIG": str(HOUSE / "config"),
        "WINBACK_DBT_TARGET": str(tmp_path / "dbt"),
    }


@pytest.fixture
def winback(settings: dict[str, str]) -> Callable[..., str]:
    """Runs the command line as an operator would, and returns its output."""

    def run(*words: str) -> str:
        environment = {**{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}, **settings}
        return subprocess.run([WINBACK, *words], env=environment, check=True, capture_output=True, text=True).stdout

    return run


def write(path: Path, header: str, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


@pytest.fixture
def warehouse(winback: Callable[..., str], tmp_path: Path) -> None:
    """A warehouse of forty users who each visited once in May, within a day, loaded as history."""
    start = datetime(2026, 5, 1, 9, tzinfo=UTC)
    times = [(f"u{n}", start + timedelta(hours=17 * n)) for n in range(40)]
    events = write(
        tmp_path / "events.csv",
        "event_id,user_id,event_name,occurred_at,loaded_at",
        [
            [
                f"{user}-{step}",
                user,
                "form_step",
                (at + timedelta(minutes=step)).isoformat(),
                (at + timedelta(minutes=step + 1)).isoformat(),
            ]
            for user, at in times
            for step in range(3)
        ],
    )
    users = write(
        tmp_path / "users.csv",
        "user_id,created_at,updated_at,marketing_consent",
        [[user, at.isoformat(), at.isoformat(), "true"] for user, at in times],
    )
    winback("load", "--events", str(events), "--users", str(users))
    winback("backfill", "--until", "2026-06-01")


@pytest.fixture
def season(winback: Callable[..., str], settings: dict[str, str], tmp_path: Path) -> Callable[..., str]:
    """Three months of an app, and a champion whose only feature is the hour of the exit."""
    subprocess.run([PYTHON, "-c", SEASON, tmp_path], cwd=HOUSE, check=True, capture_output=True)
    files = [
        word for name in ("events", "users", "redemptions") for word in (f"--{name}", f"{tmp_path / name}.parquet")
    ]
    winback("load", *files)
    winback("backfill", "--until", "2026-06-08")

    config = Path(shutil.copytree(HOUSE / "config", tmp_path / "config"))
    settings["WINBACK_CONFIG"] = str(config)
    (config / "training.yml").write_text(TRAINING)
    features = config / "features.yml"
    whole = yaml.safe_load(features.read_text())
    features.write_text(yaml.safe_dump({"features": [f for f in whole["features"] if f["name"] == "exit_hour"]}))
    winback("train", "--until", "2026-06-07")
    features.write_text(yaml.safe_dump(whole))
    return winback


Run = Callable[[str, datetime], dict[str, tuple[str, int]]]


@pytest.fixture
def run(
    database: None,
    settings: dict[str, str],
    dag: Callable[..., Any],
    written: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Runs a DAG; returns the state of each task and the number of its tries."""
    for image in ("SCORING", "TRAINING"):
        monkeypatch.setenv(f"AIRFLOW_VAR_WINBACK_{image}_IMAGE", "registry.example/winback@sha256:0123")
    written |= {"runner": "process", "command": [str(WINBACK)]}
    written["pod"]["env"] = settings
    for limits in written["tasks"].values():
        limits |= {"retries": 1, "retry_delay_minutes": 0.00001}

    def act(name: str, when: datetime) -> dict[str, tuple[str, int]]:
        found = dag(name, written)
        found.deadline = []  # as in test_runs.py
        ended = found.test(logical_date=when, run_after=when)
        return {ti.task_id: (str(ti.state), ti.try_number) for ti in ended.get_task_instances()}

    return act


@pytest.mark.usefixtures("warehouse")
def test_a_sunday_rebuilds_and_audits_a_real_warehouse(run: Run) -> None:
    done = run("winback_dbt", SUNDAY)
    assert done == {"nightly": ("success", 1), "is_audit_day": ("success", 1), "audit": ("success", 1)}


def test_a_warehouse_without_history_is_not_tried_again(run: Run) -> None:
    assert run("winback_dbt", SUNDAY)["nightly"] == ("failed", 1)


def test_a_monday_trains_judges_and_promotes_and_the_same_monday_again_finds_it_done(
    run: Run, season: Callable[..., str]
) -> None:
    before = json.loads(season("status", "--json"))["models"]
    ended = run("winback_training", MONDAY)
    after = json.loads(season("status", "--json"))["models"]
    assert ended == dict.fromkeys(("check_data", "collect_examples", "train", "evaluate", "promote"), ("success", 1))
    assert after["champion"] not in (None, before["champion"])
    assert (after["previous_champion"], after["challenger"]) == (before["champion"], None)

    assert run("winback_training", MONDAY) == {**ended, "promote": ("skipped", 1)}
    assert json.loads(season("status", "--json"))["models"] == after
