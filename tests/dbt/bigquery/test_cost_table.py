"""Cost table in docs/explanation/cost.md: it lists the columns and days that the statements of an hourly run read.

The test resolves each statement that dbt would send, including views and stars, to the columns that it reads from each table, and
to the number of days within its literal bounds. The result must equal bench/bytes_an_hour.py, whose page the guide shows.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp
from sqlglot.optimizer.pushdown_predicates import pushdown_predicates
from sqlglot.optimizer.pushdown_projections import pushdown_projections
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, traverse_scope

from bench import bytes_an_hour as cost
from bench.bytes_an_hour import Read
from crm_sync.deadline import Deadline
from crm_sync.dry_run import DryRunDestination
from crm_sync.suppression import Recheck
from crm_sync.sync import Plan, sync
from tests.support.dbt.on_bigquery import Recording, Statement, partitions, record
from warehouse.tables import ALL, USERS

GUIDE = Path(__file__).parents[3] / "docs" / "explanation" / "cost.md"
TODAY = date(2026, 3, 10)
HOUR_ENDS = datetime(2026, 3, 10, 11, tzinfo=UTC)
# A run after a successful one. Deliveries that are not folded yet are at most an hour old; fold_from_at adds a day for clocks.
HOUR: dict[str, Any] = {
    "from_at": "2026-03-10 10:00:00",
    "until_at": "2026-03-10 11:00:00",
    "history_until": "2026-03-10 00:00:00",
    "profiles_from": "2026-03-10 10:00:00",
    "fold_from_epoch": 7,
    "fold_from_at": "2026-03-09 10:00:00",
}
Columns = dict[str, int | None]  # columns, with the number of days that are read; None means all


class Project:
    """The relations that statements refer to: tables with their columns and partitions, and views with their queries."""

    def __init__(self, manifest: Mapping[str, Any], views: list[Statement]) -> None:
        models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
        self.models = {model["name"] for model in models}
        self.columns = {model["name"]: list(model["columns"]) for model in models}
        self.columns |= {table.name: [column.name for column in table.columns] for table in ALL}
        self.partitions = {name.split(".")[-1]: column for name, column in partitions(manifest).items()}
        self.schema: dict[str, Any] = defaultdict(dict)
        for node in [*models, *manifest["sources"].values()]:
            columns = dict.fromkeys(self.columns[node["name"]], "string")
            self.schema[node["schema"]] |= {node["name"]: columns, f"{node['name']}__dbt_tmp": columns}
        made = [create for view in views for create in _parsed(view.sql) if isinstance(create, exp.Create)]
        self.views = {_view(create).sql("bigquery"): create.expression for create in made}
        for view in map(_view, made):
            del self.schema[view.db][view.name]

    def reads(self, sql: str) -> Iterator[tuple[str, Columns]]:
        """Yield the tables that a statement reads, with their columns."""
        for statement in _parsed(sql):
            query: Any = statement
            if isinstance(statement, exp.Create):
                query = statement.expression if statement.kind == "TABLE" else None
            if isinstance(statement, exp.Merge):
                query = statement.args["using"].unnest()
            if isinstance(query, exp.Query):
                yield from self._of(query).items()

    def merges(self, sql: str) -> Iterator[tuple[str, Columns]]:
        """Yield the tables that a statement merges into. BigQuery bills all columns of the days that it may touch."""
        for merge in _parsed(sql):
            if isinstance(merge, exp.Merge):
                name = merge.this.name
                days = self._days(name, merge.this.alias, merge.args["on"].find_all(exp.GTE))
                yield name, dict.fromkeys(self.columns[name], days)

    def _of(self, query: exp.Query) -> dict[str, Columns]:
        # As in BigQuery's planner, unused columns are not read, and a condition outside of a view applies within it.
        whole = exp.expand(query, self.views, dialect="bigquery")
        whole = qualify(whole, schema=self.schema, dialect="bigquery")
        whole = pushdown_predicates(pushdown_projections(whole, schema=self.schema), dialect="bigquery")
        found: dict[str, Columns] = defaultdict(dict)
        for scope in traverse_scope(whole):
            for alias, source in scope.sources.items():
                if not isinstance(source, exp.Table):
                    continue
                days = self._days(source.name, alias, _conditions(scope))
                for column in {column.name for column in scope.columns if column.table == alias}:
                    # A column that is named twice is read once, over the longer time.
                    before = found[source.name].get(column, 0)
                    found[source.name][column] = None if days is None or before is None else max(before, days)
        return found

    def _days(self, table: str, alias: str, conditions: Iterable[exp.Expr]) -> int | None:
        """Return the number of days within the literal bound on the partition column, including the run's own day."""
        column = self.partitions.get(table)
        if column is None:
            return None
        bounds = [
            date.fromisoformat(str(term.expression.find(exp.Literal).name)[:10])
            for term in conditions
            if isinstance(term, (exp.GT, exp.GTE)) and not term.expression.find(exp.Column)
            if isinstance(term.this, exp.Column) and (term.this.table, term.this.name) == (alias, column)
        ]
        assert bounds, f"{table} is read without a bound on {column}"
        return (TODAY - max(bounds)).days + 1


def _view(create: exp.Create) -> exp.Table:
    return create.this if isinstance(create.this, exp.Table) else create.this.this


def _parsed(sql: str) -> list[exp.Expr]:
    """Return the parsed statements, with tables named by dataset and name."""
    statements = [statement for statement in sqlglot.parse(sql, dialect="bigquery") if statement]
    for statement in statements:
        for table in statement.find_all(exp.Table):
            table.set("catalog", None)
            table.set("this", exp.to_identifier(re.sub(r"__dbt_tmp\d+", "__dbt_tmp", table.name)))
    return statements


def _conditions(scope: Scope) -> Iterator[exp.Expr]:
    """Yield the terms of the conditions of a scope. Outer joins are ignored here, because sql_walk handles them."""
    clauses = [scope.expression.args.get("where"), *scope.expression.args.get("joins", [])]
    for clause in clauses:
        condition = clause and (clause.args.get("on") if isinstance(clause, exp.Join) else clause.this)
        if condition:
            yield from condition.flatten() if isinstance(condition, exp.And) else [condition]


class _Asked:
    """A warehouse that records its queries and returns no rows to send."""

    rows_per_append = 1

    def __init__(self) -> None:
        self.statements: list[Statement] = []

    def relation(self, layer: str, name: str) -> str:
        return f"`winback_{layer}`.`{name}`"

    def schema(self, sql: str) -> pa.Schema:
        """Stand in for a dry run, which is free."""
        return USERS.schema

    def query(self, sql: str, parameters: Any = None) -> pa.Table:
        for name, value in (parameters or {}).items():
            literal = f"timestamp '{value:%Y-%m-%d %H:%M:%S}'" if isinstance(value, datetime) else f"'{value}'"
            sql = re.sub(rf"\${name}\b", literal, sql)
        self.statements.append(Statement(cost.JOB, sql))
        answer = {"n": [0], "suppressed_because": [None]} if "count(*) as n" in sql else {"user_hash": []}
        return pa.table(answer)

    def stream(self, sql: str, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        self.query(sql)
        return iter([])

    def append(self, table: Any, rows: Any) -> int:
        return 0


def asked_by_the_sync() -> list[Statement]:
    """Return the queries of a sync."""
    asked: Any = _Asked()
    run = Deadline("00000001-cost", 60)
    recheck = Recheck(asked, HOUR_ENDS, {"finished": "finished"}, lambda: HOUR_ENDS + timedelta(minutes=5))
    plan = Plan("00000001-cost", 1, run, lambda: HOUR_ENDS, recheck, max_rejected_ratio=1.0)
    sync(asked, DryRunDestination(1), SimpleNamespace(), plan)  # type: ignore[arg-type]
    recheck.news()
    return asked.statements  # type: ignore[no-any-return]


def derived(project: Project, statements: Iterable[Statement]) -> set[Read]:
    """Return the reads of the statements, summed by model, table and days."""
    sums: Counter[tuple[str, str, int | None, bool]] = Counter()
    counts: Counter[tuple[str, str, int | None, bool]] = Counter()
    for statement in statements:
        if "where false" in statement.sql.lower():
            continue  # a query for the columns, with `limit 0`: BigQuery reads nothing
        by = statement.node if statement.node in {*project.models, cost.JOB} else cost.DATA_TESTS
        for is_merge, found in ((False, project.reads(statement.sql)), (True, project.merges(statement.sql))):
            for table, columns in found:
                for days in set(columns.values()):
                    key = (by, table, days, is_merge)
                    sums[key] += sum(cost.width(column) for column, its_days in columns.items() if its_days == days)
                    counts[key] += 1
    return {Read(by, table, days, sums[by, table, days, m], n, m) for (by, table, days, m), n in counts.items()}


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """The statements of an hourly run, build by build."""
    whole = Recording()
    for selector in ("features", "audience", "acknowledged"):
        part = record(tmp_path_factory.mktemp(selector), "build", "--selector", selector, **HOUR)
        whole.statements += part.statements
        whole.manifest = part.manifest
    return whole


@pytest.fixture(scope="module")
def project(hour: Recording, tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = record(tmp_path_factory.mktemp("views"), "run", "--select", "config.materialized:view", **HOUR)
    return Project(hour.manifest, [view for view in made.statements if "create or replace view" in view.sql])


def test_an_hour_reads_what_is_declared(project: Project, hour: Recording) -> None:
    reads = derived(project, [*hour.statements, *asked_by_the_sync()])

    assert reads == set(cost.READS)


def test_a_training_reads_what_is_declared(project: Project, tmp_path: Path) -> None:
    examples = record(tmp_path, "build", "--selector", "examples", **HOUR)

    assert derived(project, examples.statements) == set(cost.TRAINING)


def test_a_view_and_a_star_are_followed_to_the_columns_that_are_asked_for(project: Project) -> None:
    sql = """
        with users as (select * from `p`.`winback_staging`.`stg_app__users`),
        exits as (select * from winback_marts.fct_unfinished_exits where exited_on >= date '2026-03-05')
        select exits.exit_id, users.has_marketing_consent from exits join users on exits.user_id = users.user_id
    """
    assert dict(project.reads(sql)) == {
        "erasures": {"step": None, "user_hash": None},  # in the view
        "users": {"user_id": None, "marketing_consent": None},
        "fct_unfinished_exits": {"exit_id": 6, "user_id": 6, "exited_on": 6},
    }


def test_a_column_read_twice_is_read_once_over_the_longer_time(project: Project) -> None:
    sql = """
        select 1 from winback_ops.decisions as a, winback_ops.decisions as b
        where a.decided_at >= timestamp '2026-03-09' and b.decided_at >= timestamp '2026-01-10' and a.exit_id = b.user_id
    """
    assert dict(project.reads(sql)) == {"decisions": {"decided_at": 60, "exit_id": 2, "user_id": 60}}


def test_every_model_of_the_hour_is_in_the_table(project: Project, hour: Recording) -> None:
    built = {statement.node for statement in hour.statements} & project.models
    # Creating a view reads nothing. Its readers pay.
    assert built - {"crm_pending"} == {read.by for read in cost.READS} - {cost.DATA_TESTS, cost.JOB}


def test_the_widths_are_those_of_the_columns_types(project: Project, hour: Recording) -> None:
    """A column name has the same type everywhere, so the types of the contracts apply to tables without a contract."""
    types = {column.name: str(column.type) for table in ALL for column in table.columns}
    for node in hour.manifest["nodes"].values():
        types |= {name: column["data_type"] for name, column in node["columns"].items() if column["data_type"]}
    tables = {read.table for read in (*cost.READS, *cost.TRAINING)}
    read = {column for table in tables for column in project.columns[table.removesuffix("__dbt_tmp")]}

    assert {name for name in read if types.get(name) == "string"} <= set(cost.LENGTHS)
    assert {name for name in read if types.get(name) in ("bool", "boolean")} <= cost.FLAGS
    assert {name for name in {*cost.LENGTHS, *cost.FLAGS} if types[name] not in ("string", "bool", "boolean")} == set()


def test_the_guide_shows_what_the_page_prints() -> None:
    shown = GUIDE.read_text().partition("<!-- python bench/bytes_an_hour.py -->")[2].partition("<!-- end -->")[0]

    assert shown.strip() == cost.page(), (
        "Replace the text between the comments in docs/explanation/cost.md with the output of `python bench/bytes_an_hour.py`."
    )
