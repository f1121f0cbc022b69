"""Runs `winback migrate` over copies of an old warehouse, killing some of the runs; test_migrate.py checks the results.

    .venv/bin/python -m tests.support.migrate.subprocess_run FOLDER [MODEL ...]

FOLDER/old/winback.duckdb must exist. A rebuild is also killed at each MODEL. The dbt project is parsed once; then each run is a
fork of this process, which itself opens nothing and has no threads. The results are printed as JSON, and the warehouses stay in
FOLDER.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dbt.task.run import ModelRunner
from dbt_common.behavior_flags import BehaviorFlagRendered

from core.clock import UNIX_EPOCH
from core.errors import ContractError
from jobs.transform.dbt import Window
from jobs.transform.schema_version import check_schema_version
from jobs.upkeep import migrate, migrations
from tests.support.crash.subprocesses import Child, in_a_child
from tests.support.environment import NOW, parse_ahead, settings_in
from tests.support.migrate.builders import Steps, migrated, take_away
from warehouse.duckdb.warehouse import DuckDBWarehouse

REBUILD, BETWEEN = "events, sessions, exits", "int_exits_this_run"


def killed_after(place: int) -> None:
    """Make this process die after a step has done its work, before the step is recorded."""
    step = migrations.STEPS[place]

    def apply(context: Any) -> None:
        step.apply(context)
        os.kill(os.getpid(), signal.SIGKILL)

    steps = (*migrations.STEPS[:place], replace(step, apply=apply), *migrations.STEPS[place + 1 :])
    for module in (migrations, migrate):
        module.STEPS = steps  # type: ignore[attr-defined]


def killed_at(model: str) -> None:
    """Make this process die when dbt reaches a model."""
    run = ModelRunner.execute

    def execute(self: Any, compiled: Any, manifest: Any) -> Any:
        if compiled.name == model:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(self, compiled, manifest)

    ModelRunner.execute = execute


def is_refused(folder: Path) -> bool:
    """Whether every other command refuses the warehouse."""
    with closing(DuckDBWarehouse(folder / "winback.duckdb")) as warehouse:
        try:
            check_schema_version(warehouse)
        except ContractError:
            return True
    return False


class Runs:
    """The runs, each over a copy of the old warehouse."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.parsed: dict[str, Any] = {}
        parse_ahead(settings_in(root / "parsed"), self.parsed, Window(UNIX_EPOCH, NOW, NOW))

    def copy(self, name: str, source: str = "old") -> Path:
        folder = self.root / name
        folder.mkdir()
        shutil.copy(self.root / source / "winback.duckdb", folder)
        return folder

    def migrate(self, folder: Path, **options: Any) -> dict[str, Any]:
        def act() -> dict[str, Any]:
            steps = Steps()
            answer = migrated(folder, self.parsed, reporter=steps, **options)
            return {"steps": answer.steps, "lines": steps.lines}

        answer: dict[str, Any] = in_a_child(act, folder)
        return answer

    def killed(self, folder: Path, how: Callable[[], None]) -> int:
        def act() -> None:
            how()
            migrated(folder, self.parsed)

        return Child(act, folder).wait()

    def chain(self) -> dict[str, Any]:
        """Run repeatedly, killed in each step: the rebuild between two tables, the others before the step is recorded."""
        folder, ends, refused = self.copy("killed"), {}, []
        in_a_child(lambda: take_away(folder), folder)
        for place, step in enumerate(migrations.STEPS):
            how = partial(killed_at, BETWEEN) if step.name == REBUILD else partial(killed_after, place)
            ends[step.name] = self.killed(folder, how)
            refused.append(in_a_child(lambda: is_refused(folder), folder))
        last = self.migrate(folder)
        refused.append(in_a_child(lambda: is_refused(folder), folder))
        return {"ends": ends, "refused": refused, "last": list(last["steps"])}

    def between(self, model: str) -> dict[str, Any]:
        folder = self.copy(f"between-{model}")
        end = self.killed(folder, lambda: killed_at(model))
        return {"end": end, "last": list(self.migrate(folder)["steps"])}


def main(root: Path, models: list[str]) -> dict[str, Any]:
    runs = Runs(root)
    return {
        "new": runs.migrate(runs.copy("new")),
        "again": runs.migrate(runs.copy("again", "new")),
        "chain": runs.chain(),
        "between": {model: runs.between(model) for model in models},
    }


if __name__ == "__main__":
    # As in tests/conftest.py: dbt searches all modules for each of its flags.
    BehaviorFlagRendered._default_source = staticmethod(lambda: "tests")  # type: ignore[method-assign]
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:])))  # noqa: T201
