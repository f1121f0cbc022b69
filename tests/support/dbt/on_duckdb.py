"""Runs a dbt command on a separate DuckDB in this process, with every warning an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dbt.cli.main import dbtRunner, dbtRunnerResult

from jobs.transform.dbt import vars_text
from warehouse.duckdb.warehouse import DuckDBWarehouse

PROJECT = Path(__file__).parents[3] / "dbt"
MODELS = {path.stem for path in PROJECT.glob("models/**/*.sql")}


def prepare(folder: Path) -> Path:
    """Make a database with the tables that Python writes, all empty."""
    path = folder / "winback.duckdb"
    warehouse = DuckDBWarehouse(path)
    warehouse.prepare()
    warehouse.close()
    return path


def prepare_empty(folder: Path) -> Path:
    """Make a database with every relation, of Python and of dbt, without rows."""
    path = prepare(folder)
    run(path, "run", "--empty")
    return path


def invoke(database: Path, *arguments: str, **variables: Any) -> dbtRunnerResult:
    """Run dbt and return its result. Artifacts go to `target` beside the database."""
    folder = database.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WINBACK_WAREHOUSE", f"duckdb:///{database}")
        return dbtRunner().invoke(
            [
                *arguments,
                *("--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)),
                *("--target-path", str(folder / "target"), "--log-path", str(folder / "logs")),
                *("--vars", vars_text(variables), "--log-level", "none", "--log-level-file", "none", "--warn-error"),
            ]
        )


def run(database: Path, *arguments: str, **variables: Any) -> list[Any]:
    """Run dbt, check that everything succeeded, and return the result of every node."""
    outcome = invoke(database, *arguments, **variables)
    results = getattr(outcome.result, "results", [])
    broken = {result.node.name: result.message for result in results if result.status not in ("success", "pass")}
    assert outcome.success, f"dbt {arguments[0]}: {outcome.exception or broken}"
    return [result for result in results if result.node.resource_type != "operation"]


def artifact(database: Path, name: str) -> dict[str, Any]:
    """Return a file of the last command: manifest.json, catalog.json."""
    return json.loads((database.parent / "target" / name).read_text())  # type: ignore[no-any-return]
