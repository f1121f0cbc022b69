"""Do the night and the audit really come to an end, run by Airflow, on a small warehouse?"""

from __future__ import annotations

import csv
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import HOUSE

WINBACK = HOUSE / ".venv" / "bin" / "winback"
SUNDAY = datetime(2026, 6, 7, 2, 35, tzinfo=UTC)

pytestmark = pytest.mark.skipif(not WINBACK.exists(), reason="winback is not installed in .venv: make test does it")


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, str]:
    """Where the commands work: in a folder of their own."""
    return {
        "WINBACK_WAREHOUSE": f"duckdb:///{tmp_path}/winback.duckdb",
        "WINBACK_MODELS": str(tmp_path / "models"),
        "WINBACK_CONFIG": str(HOUSE / "config"),
        "WINBACK_DBT_TARGET": str(tmp_path / "dbt"),
    }


def write(path: Path, header: str, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


@pytest.fixture
def warehouse(settings: dict[str, str], tmp_path: Path) -> None:
    """Forty users who each came once in May, a day apart at most, taken in as history."""

    def winback(*words: str) -> None:
        environment = {**{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}, **settings}
        subprocess.run([WINBACK, *words], env=environment, check=True, capture_output=True)

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
def sunday(
    database: None,
    settings: dict[str, str],
    dag: Callable[..., Any],
    written: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], dict[str, tuple[str, int]]]:
    """A run of winback_dbt on a Sunday; how each task ended, and after how many tries."""
    monkeypatch.setenv("AIRFLOW_VAR_WINBACK_SCORING_IMAGE", "registry.example/winback@sha256:0123")
    written |= {"runner": "process", "command": [str(WINBACK)]}
    written["pod"]["env"] = settings
    for limits in written["tasks"].values():
        limits |= {"retries": 1, "retry_delay_minutes": 0.00001}

    def run() -> dict[str, tuple[str, int]]:
        found = dag("winback_dbt", written)
        found.deadline = []  # as in test_runs.py
        ended = found.test(logical_date=SUNDAY, run_after=SUNDAY)
        return {ti.task_id: (str(ti.state), ti.try_number) for ti in ended.get_task_instances()}

    return run


@pytest.mark.usefixtures("warehouse")
def test_a_sunday_rebuilds_and_audits_a_real_warehouse(sunday: Callable[[], dict[str, tuple[str, int]]]) -> None:
    assert sunday() == {"nightly": ("success", 1), "is_audit_day": ("success", 1), "audit": ("success", 1)}


def test_a_warehouse_without_history_is_not_tried_again(sunday: Callable[[], dict[str, tuple[str, int]]]) -> None:
    assert sunday()["nightly"] == ("failed", 1)
