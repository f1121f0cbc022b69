"""Records the statements of a dbt command for BigQuery instead of sending them: no credentials, no network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbt.adapters.bigquery import BigQueryAdapter
from dbt.adapters.bigquery.connections import BigQueryAdapterResponse, BigQueryConnectionManager
from dbt.cli.main import dbtRunner
from dbt_common.clients.agate_helper import table_from_data_flat
from dbt_common.events.contextvars import get_node_info

from jobs.transform.dbt import vars_text
from tests.support.data_tests import with_data_tests
from warehouse.tables import ALL

PROJECT = Path(__file__).parents[3] / "dbt"
# The project's own profile would look for credentials.
PROFILE = """
winback:
  target: bigquery
  outputs:
    bigquery: {type: bigquery, method: oauth-secrets, token: none, project: some-project, dataset: winback, threads: 1}
"""
# Changes that dbt makes by an API call, not by a statement.
_API_CALLS = ("create_schema", "drop_relation", "update_columns", "update_table_description")


@dataclass(frozen=True)
class Statement:
    """One statement, and the model or test that it was sent for; "" for none."""

    node: str
    sql: str


@dataclass
class Recording:
    """The statements of a command, and the project as dbt parsed it."""

    statements: list[Statement] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)


def record(folder: Path, *arguments: str, is_first: bool = False, **variables: Any) -> Recording:
    """Run dbt with these arguments and vars against a BigQuery that returns nothing and where every test passes.

    Every relation exists, with the columns of its description; with `is_first`, none exists.
    """
    recording = Recording()
    (folder / "profiles.yml").write_text(PROFILE)
    with pytest.MonkeyPatch.context() as patch, with_data_tests():
        patch.setenv("WINBACK_WAREHOUSE", "bigquery://some-project/winback")
        _answer(patch, recording.statements, is_first=is_first)
        outcome = dbtRunner().invoke(
            [
                *arguments,
                *("--project-dir", str(PROJECT), "--profiles-dir", str(folder)),
                *("--target-path", str(folder / "target"), "--log-path", str(folder / "logs")),
                *("--vars", vars_text(variables), "--log-level", "none", "--log-level-file", "none"),
                *("--no-populate-cache", "--warn-error"),
            ]
        )
    results = getattr(outcome.result, "results", [])
    broken = {r.node.name: r.message for r in results if r.status not in ("success", "pass")}
    assert outcome.success, f"dbt {arguments[0]}: {outcome.exception or broken}"
    recording.manifest = json.loads((folder / "target" / "manifest.json").read_text())
    return recording


def partitions(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the partition column of every table that grows with time, and of views that only rename one, by `schema.name`.

    It comes from dbt's models, and for Python's tables from warehouse/tables.py. A view over a table keeps the column's name.
    """
    by_python = {table.name: table.partition_on for table in ALL if table.partition_on}
    columns: dict[str, str] = {}
    names: dict[str, str] = {}
    for key, source in manifest["sources"].items():
        if source["identifier"] in by_python:
            names[f"{source['schema']}.{source['identifier']}"] = columns[key] = by_python[source["identifier"]]
    for node in manifest["nodes"].values():
        if node["resource_type"] != "model":
            continue
        by_day = node["config"].get("partition_by")
        below = [columns[parent] for parent in node["depends_on"]["nodes"] if parent in columns]
        if by_day:
            names[f"{node['schema']}.{node['alias']}"] = by_day["field"]
        elif node["config"]["materialized"] == "view" and below:
            names[f"{node['schema']}.{node['alias']}"] = below[0]
    return names


def _answer(patch: pytest.MonkeyPatch, statements: list[Statement], *, is_first: bool) -> None:
    described, views = _columns(), _views()

    def note(sql: str) -> None:
        node = str(get_node_info().get("node_name") or "")
        statements.append(Statement(node, sql))

    def execute(
        manager: Any, sql: str, auto_begin: bool = False, fetch: bool | None = None, limit: int | None = None
    ) -> Any:
        note(manager._add_query_comment(sql))
        if "max(loaded_at)" in sql:  # the freshness of a source
            row: dict[str, Any] = dict.fromkeys(("max_loaded_at", "snapshotted_at"), datetime.now(UTC))
        else:
            row = {"failures": 0, "should_warn": False, "should_error": False}
        return BigQueryAdapterResponse("OK"), table_from_data_flat([row], list(row))

    def get_column_schema_from_query(adapter: Any, sql: str) -> list[Any]:
        note(sql)
        return []  # for the query as for the contract, so that they agree

    def get_relation(adapter: Any, database: str, schema: str, identifier: str) -> Any:
        kind = "view" if identifier in views else "table"
        there = adapter.Relation.create(database=database, schema=schema, identifier=identifier, type=kind)
        return None if is_first else there

    def get_columns_in_relation(adapter: Any, relation: Any) -> list[Any]:
        return [adapter.Column(name, "STRING") for name in described[relation.identifier.split("__dbt_tmp")[0]]]

    patch.setattr(BigQueryConnectionManager, "execute", execute)
    for call in (get_column_schema_from_query, get_relation, get_columns_in_relation):
        patch.setattr(BigQueryAdapter, call.__name__, call)
    for name in _API_CALLS:
        patch.setattr(BigQueryAdapter, name, lambda *_, **__: None)
    patch.setattr(BigQueryAdapter, "calculate_freshness_from_metadata_batch", lambda *_, **__: ([], {}))
    patch.setattr(BigQueryAdapter, "list_schemas", lambda *_, **__: [])
    patch.setattr(BigQueryAdapter, "is_replaceable", lambda *_, **__: True)


def _columns() -> dict[str, list[str]]:
    files = [yaml.safe_load(path.read_text()) for path in PROJECT.glob("models/**/_*__models.yml")]
    by_python = {table.name: [column.name for column in table.columns] for table in ALL}
    return by_python | {
        model["name"]: [column["name"] for column in model["columns"]] for file in files for model in file["models"]
    }


def _views() -> set[str]:
    return {
        path.stem
        for path in PROJECT.glob("models/**/*.sql")
        if path.parent.name == "staging" or "='view'" in path.read_text()
    }
