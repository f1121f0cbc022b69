"""SQL in the docs: every query runs on the tables that dbt builds."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import duckdb
import pytest

from tests.support.dbt.on_duckdb import prepare_empty

DOCS = Path(__file__).parents[2] / "docs"


def queries(page: Path) -> list[str]:
    """Return the SQL blocks of a page and the queries within sentences, except those on tables that only BigQuery has."""
    text = page.read_text()
    blocks = [dedent(block) for block in re.findall(r"^ *```sql\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)]
    return [sql for sql in [*blocks, *re.findall(r"`(select [^`]+)`", text)] if "INFORMATION_SCHEMA" not in sql]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = prepare_empty(tmp_path_factory.mktemp("sql"))
    with duckdb.connect(str(path)) as connection:
        connection.execute("create schema audit_intermediate")
        connection.execute("create table audit_intermediate.int_sessions as from intermediate.int_sessions")
    return path


PAGES = {str(page.relative_to(DOCS)): page for page in sorted(DOCS.rglob("*.md")) if queries(page)}


@pytest.mark.parametrize("name", PAGES)
def test_every_query_of_a_page_runs(database: Path, name: str) -> None:
    found = queries(PAGES[name])
    assert found
    with duckdb.connect(str(database)) as connection:
        for sql in found:
            connection.execute(sql)


def test_the_pages_have_as_many_queries_as_before() -> None:
    assert sum(len(queries(page)) for page in PAGES.values()) >= 10
