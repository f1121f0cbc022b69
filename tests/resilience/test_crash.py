"""Crashes: after a kill at any effect, the next run ends like an undisturbed one, and every invariant holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# External effects of an hourly run; the process is killed after each. `make crash-test` also kills it before each, and at every
# occurrence of an effect.
EFFECTS = (
    "build features", "append ops.decisions", "append_once ops.runs", "build audience", "request POST /users/track",
    "append ops.deliveries", "build acknowledged", "append ops.reports",
)  # fmt: skip


def test_a_run_killed_at_any_kind_of_effect_is_finished_by_the_next() -> None:
    command = [sys.executable, "-m", "tests.support.crash.kill_matrix", "--short", "--json"]
    run = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout, run.stderr
    (found,) = json.loads(run.stdout)["found"]

    assert found["violations"] == []
    assert found["kinds"] == {f"after {effect}": [1, 1] for effect in EFFECTS}
    assert {law: counts[1] for law, counts in found["laws"].items()} == dict.fromkeys(found["laws"], 0)
    assert all(checked for checked, _ in found["laws"].values())
    # The hour must not be empty.
    assert all(found["hour"].values()), found["hour"]
    assert found["hour"]["requests"] > 4
    assert run.returncode == 0
