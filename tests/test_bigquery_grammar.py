"""Is what dbt compiles for BigQuery in BigQuery's grammar? `make lint` lints the files as DuckDB, this the second dialect.

sqlfluff's own dbt templater would connect to compile for BigQuery; tests/dbt_on_bigquery.py needs no network.
"""

from __future__ import annotations

import re

import pytest
import sqlglot
from sqlfluff.core import FluffConfig, Linter
from sqlglot import exp
from sqlglot.errors import SqlglotError

from tests.dbt_on_bigquery import record
from tests.dbt_on_duckdb import MODELS, PROJECT

LINTER = Linter(FluffConfig.from_root(extra_config_path=str(PROJECT / "bigquery.sqlfluff"), ignore_local_config=True))
# What sqlfluff's grammar of BigQuery lets through though BigQuery does not.
FOREIGN = re.compile(
    r"::|\bilike\b|\bdistinct on\b|\b(?:asof|semi|anti|positional) join\b|\binterval \(|^\s*from \S+\s+select\b",
    re.IGNORECASE,
)


def complaints(sql: str) -> list[str]:
    """What BigQuery would not understand, and what the linter finds untidy."""
    found = [f"line {v.line_no}: {v.rule_code()} {v.desc()}" for v in LINTER.lint_string(sql).violations]
    found += FOREIGN.findall(re.sub(r"--[^\n]*|'[^']*'", "''", sql))
    try:
        query = sqlglot.parse_one(sql, dialect="bigquery")
    except SqlglotError:
        return [*found, "does not parse"]
    return found + [f"no function of BigQuery: {call.name}" for call in query.find_all(exp.Anonymous)]


@pytest.mark.parametrize(
    "sql",
    [
        "select * exclude (a) from t\n",
        "select [x for x in y] as z from t\n",
        "select a::int as a from t\n",
        "select epoch_us(a) as b from t\n",
        "select a + interval (5) minute as b from t\n",
        "select distinct on (a) a from t\n",
        "select a from t qualify\n",
        "from t select a\n",
    ],
)
def test_sql_of_another_dialect_does_not_pass_for_bigquery(sql: str) -> None:
    assert complaints(sql)


def test_what_is_compiled_for_bigquery_is_in_its_grammar(tmp_path_factory: pytest.TempPathFactory) -> None:
    arguments = ("compile", "--no-introspect", "--exclude", "test_type:unit")
    sql: dict[str, str] = {}
    for is_first in (True, False):
        nodes = record(tmp_path_factory.mktemp("bigquery"), *arguments, is_first=is_first).manifest["nodes"].values()
        # dbt wrote the generic tests.
        sql |= {n["compiled_code"]: n["name"] for n in nodes if n.get("compiled_code") and "test_metadata" not in n}

    assert {name: found for text, name in sql.items() if (found := complaints(text + "\n"))} == {}
    assert set(sql.values()) >= MODELS
