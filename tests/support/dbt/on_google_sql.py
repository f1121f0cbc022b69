"""Runs dbt-bigquery with Google's reference implementation, which analyses and executes every statement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from dbt.adapters.bigquery import BigQueryAdapter
from dbt.adapters.bigquery.connections import BigQueryAdapterResponse, BigQueryConnectionManager
from dbt_common.clients.agate_helper import table_from_data_flat
from dbt_common.events.contextvars import get_node_info
from zetasql.core.exceptions import ServerError

from tests.support.google_sql.engine import GoogleSql, NotBigQueryError

# Changes that dbt makes by an API call, not by a statement.
_API_CALLS = ("create_schema", "update_columns", "update_table_description")
Note = Callable[[str, str], None]  # node, statement


def _ignore(node: str, sql: str) -> None:
    pass


@contextmanager
def dbt_reaches(google: GoogleSql, note: Note = _ignore) -> Iterator[None]:
    """Make `google` dbt's BigQuery within this block. `note` is called with each statement and its node.

    A statement that GoogleSQL refuses is an error of its node, as with BigQuery.
    """
    with pytest.MonkeyPatch.context() as patch:
        _replace(patch, google, note)
        yield


def _replace(patch: pytest.MonkeyPatch, google: GoogleSql, note: Note) -> None:
    def run(sql: str) -> Any:
        note(str(get_node_info().get("node_name") or ""), sql)
        try:
            return google.run(sql)
        except (ServerError, NotBigQueryError) as error:
            raise RuntimeError(f"GoogleSQL: {error}\n{sql}") from error

    def execute(
        manager: Any, sql: str, auto_begin: bool = False, fetch: bool | None = None, limit: int | None = None
    ) -> Any:
        result = run(manager._add_query_comment(sql))
        rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
        return BigQueryAdapterResponse("OK"), table_from_data_flat(rows, list(result.columns))

    def name_of(relation: Any) -> str:
        return f"{relation.database}.{relation.schema}.{relation.identifier}"

    def get_column_schema_from_query(adapter: Any, sql: str) -> list[Any]:
        note(str(get_node_info().get("node_name") or ""), sql)
        return [adapter.Column(name, kind) for name, kind in google.analyse(sql).items()]

    def get_relation(adapter: Any, database: str, schema: str, identifier: str) -> Any:
        found = google.relations.get(f"{database}.{schema}.{identifier}")
        if found is None:
            return None
        kind = "view" if found.query else "table"
        return adapter.Relation.create(database=database, schema=schema, identifier=identifier, type=kind)

    def get_columns_in_relation(adapter: Any, relation: Any) -> list[Any]:
        found = google.relations.get(name_of(relation))
        return [adapter.Column(name, kind) for name, kind in found.columns.items()] if found else []

    def drop_relation(adapter: Any, relation: Any) -> None:
        google.drop(name_of(relation))

    def freshness(adapter: Any, sources: Any, macro_resolver: Any = None) -> Any:
        return [], {
            source: {"max_loaded_at": datetime.now(UTC), "snapshotted_at": datetime.now(UTC)} for source in sources
        }

    patch.setattr(BigQueryConnectionManager, "execute", execute)
    for call in (get_column_schema_from_query, get_relation, get_columns_in_relation, drop_relation):
        patch.setattr(BigQueryAdapter, call.__name__, call)
    for name in _API_CALLS:
        patch.setattr(BigQueryAdapter, name, lambda *_, **__: None)
    patch.setattr(BigQueryAdapter, "calculate_freshness_from_metadata_batch", freshness)
    patch.setattr(BigQueryAdapter, "list_schemas", lambda *_, **__: [])
    patch.setattr(BigQueryAdapter, "list_relations_without_caching", lambda *_, **__: [])
    patch.setattr(BigQueryAdapter, "is_replaceable", lambda *_, **__: True)
