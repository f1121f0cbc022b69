"""The demo, small: what it answers, and that nothing in it worries whoever tries it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.world import CONFIG


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("demo")
    environment = {"PATH": os.environ["PATH"], "WINBACK_CONFIG": str(CONFIG), "PYTHONPATH": str(CONFIG.parent)}
    command = [sys.executable, "-m", "jobs", "demo", "--users", "1500", "--hours", "1"]
    return subprocess.run(command, check=False, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_demo_ends_well_and_says_where_to_look(demo: subprocess.CompletedProcess[str]) -> None:
    assert demo.returncode == 0, demo.stderr
    assert "The last hour, repeated, sent nothing." in demo.stdout
    assert "winback replay --until 2026-06-22T10:00 --every 1" in demo.stdout


def test_its_clock_is_that_of_its_events_so_nothing_is_old(demo: subprocess.CompletedProcess[str]) -> None:
    """Without a terminal a warning is a line with a mark of its own."""
    lines = [line.split("s  ", 1)[1] for line in demo.stderr.splitlines()]

    assert lines[:3] == ["Making a synthetic tax app", "Loading", "Building history"]
    assert [line for line in lines if line.startswith("!")] == []
