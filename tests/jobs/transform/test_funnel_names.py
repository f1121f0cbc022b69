"""Names of events and steps: each is the same text in the SQL of both warehouses."""

from pathlib import Path
from typing import Any

import duckdb
import sqlglot
from sqlglot import exp

from tests.support.dbt.on_bigquery import record
from tests.support.dbt.on_duckdb import invoke, prepare

NAMES = [
    "it's done",
    'say "done"',
    "back\\slash",
    "ends in \\",
    "\\'",
    "''",
    "{{ 1 + 1 }}",
    "%s {# no #}",
    "naïve 😀",
    "-- x",
    "$$",
]
VARIABLES: dict[str, Any] = {
    "completion_events": NAMES,
    "abandonment_events": ["don't"],
    "closing_events": [],
    "steps": NAMES,
}
INLINE = "select {{ outcome_of('event_name') }} as outcome, {{ step_index('event_name') }} as step from names"


def test_duckdb_recognises_every_name(tmp_path: Path) -> None:
    compiled = (
        invoke(prepare(tmp_path), "compile", "--inline", INLINE, **VARIABLES).result.results[0].node.compiled_code
    )
    with duckdb.connect() as connection:
        connection.execute("create table names (place integer, event_name varchar)")
        connection.executemany("insert into names values (?, ?)", list(enumerate([*NAMES, "don't", "other"])))
        found = connection.execute(f"{compiled} order by place").fetchall()
    assert found == [*(("finished", place) for place in range(len(NAMES))), ("gave_up", None), (None, None)]


def test_bigquery_is_sent_a_literal_of_every_name(tmp_path: Path) -> None:
    record(tmp_path, "compile", "--select", "int_outcomes", "int_sessions_this_run", **VARIABLES)
    literals = {
        literal.this
        for path in tmp_path.glob("target/compiled/**/int_*.sql")
        for literal in sqlglot.parse_one(path.read_text(), dialect="bigquery").find_all(exp.Literal)
    }
    assert set(NAMES) | {"don't"} <= literals
