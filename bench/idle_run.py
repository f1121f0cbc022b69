"""Cost of a run without work: one process from start to exit, on the history of a small app.

python bench/idle_run.py [--users 5000] [--repeat 5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from sandbox.local_crm.server import LocalCrm
from sandbox.synthetic_app import generate

ROOT = Path(__file__).parents[1]
UNTIL = datetime(2026, 5, 20, 16, tzinfo=UTC)
BOUND_SECONDS, BOUND_MEGABYTES = 10.0, 500.0


def winback(environment: dict[str, str], *arguments: str) -> tuple[float, float, str]:
    """Run one command; returns seconds, peak megabytes and its output."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "jobs", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"winback {' '.join(arguments)} ended with {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024, printed


def main() -> int:
    """Run the bench and print; exit 1 when a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, LocalCrm(Path(name) / "crm.sqlite") as crm:
        folder = Path(name)
        environment = {
            **os.environ,
            "WINBACK_WAREHOUSE": f"duckdb:///{folder / 'winback.duckdb'}",
            "WINBACK_MODELS": str(folder / "models"),
            "WINBACK_DBT_TARGET": str(folder / "dbt"),
            "WINBACK_CRM_URL": crm.url,
        }
        app = generate(seed=1, count_users=arguments.users, starts_on=date(2026, 4, 1), count_days=60)
        app.write(folder)
        files = [part for n in ("events", "users", "redemptions") for part in (f"--{n}", str(folder / f"{n}.parquet"))]
        winback(environment, "load", *files)
        winback(environment, "backfill", "--until", UNTIL.isoformat())
        winback(environment, "train")
        busy = winback(environment, "run", "--until", (UNTIL + timedelta(hours=1)).isoformat(), "--json")
        idle = [
            # A window without new rows and without exits that mature: long after the app's last event.
            winback(environment, "run", "--until", (UNTIL + timedelta(days=60 + n)).isoformat(), "--json")
            for n in range(arguments.repeat + 1)
        ][1:]
        assert all(json.loads(printed)["scoring"]["exits"] == 0 for _, _, printed in idle)
    seconds = statistics.median(run[0] for run in idle)
    peak = max(run[1] for run in idle)
    counts = json.loads(busy[2])["scoring"]
    print(f"one hour, {counts['exits']} exits    {busy[0]:5.1f} s   {busy[1]:5.0f} MB")
    print(
        f"nothing to do            {seconds:5.1f} s   {peak:5.0f} MB   (bounds {BOUND_SECONDS:g} s, {BOUND_MEGABYTES:g} MB)"
    )
    return 0 if seconds < BOUND_SECONDS and peak < BOUND_MEGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
