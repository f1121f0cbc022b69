"""Makes a warehouse with the code of an earlier commit, for tests of `winback migrate`.

    .venv/bin/python -m tests.old_warehouse FOLDER

writes FOLDER/winback.duckdb, with a history, a model and three runs, and FOLDER/crm.sqlite, what the local CRM then held. The
code is taken from this repository's history and runs with today's libraries.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from tests.world import HISTORY_UNTIL, small_app

ROOT = Path(__file__).parents[1]
# The last commit before the faults of the field were mended: no arrival time of profiles, events keyed by their id alone.
BEFORE_FIELD_FAULTS = "8b410621e896a557dae04253d87e35a4310bbddd"
COUNT_HOURS = 3


def is_at_hand(commit: str = BEFORE_FIELD_FAULTS) -> bool:
    """Whether this clone has the commit; a shallow one has not."""
    found = subprocess.run(
        ["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True, check=False
    )
    return found.returncode == 0


def make(folder: Path, commit: str = BEFORE_FIELD_FAULTS) -> None:
    """Load, backfill, train and run three hours with that commit's code. Raises: CalledProcessError."""
    code = folder / "code"
    code.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", code], input=archive, check=True)
    small_app(count_users=1_500).write(folder)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(code),
        "WINBACK_WAREHOUSE": f"duckdb:///{folder / 'winback.duckdb'}",
        "WINBACK_MODELS": str(folder / "models"),
        "WINBACK_REGISTRY": "none",
        "WINBACK_DBT_TARGET": str(folder / "dbt"),
    }

    def winback(*words: str | Path) -> None:
        command = [sys.executable, "-m", "jobs", *map(str, words)]
        subprocess.run(command, cwd=code, env=environment, check=True, capture_output=True)

    files = [part for name in ("events", "users", "redemptions") for part in (f"--{name}", folder / f"{name}.parquet")]
    winback("load", *files)
    winback("backfill", "--until", f"{HISTORY_UNTIL:%Y-%m-%dT%H:%M}")
    winback("train")
    until = HISTORY_UNTIL + timedelta(hours=2 * COUNT_HOURS)
    winback("replay", "--until", f"{until:%Y-%m-%dT%H:%M}", "--every", "2", "--database", folder / "crm.sqlite")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
