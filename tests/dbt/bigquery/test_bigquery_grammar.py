"""Statements for BigQuery: GoogleSQL's analyzer and reference implementation accept all of them and give DuckDB's results.

The whole product runs on a small app: backfill, hourly runs with every kind of event, erasure, nightly run, audit and examples.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import requests
from dbt.cli.main import dbtRunner
from zetasql.core.exceptions import ServerError

from crm_sync.deadline import Deadline
from jobs.context import JobContext
from jobs.crm_state.check import check_crm, other_crm
from jobs.crm_state.switch import switch_crm
from jobs.doctor.run import check_history
from jobs.erasure.erase import erase, purge_reappeared_rows, re_erase_recent
from jobs.models.dataset import build_examples, examples
from jobs.models.lifecycle import choose
from jobs.status import status
from jobs.upkeep import dead_letters
from jobs.upkeep.audit import audit, last_audit
from jobs.upkeep.backfill import backfill
from jobs.upkeep.migrations import STEPS
from jobs.upkeep.nightly import nightly
from jobs.upkeep.profile_coverage import coverage_of_exits
from jobs.upkeep.repair_watermark import repair_watermark
from sandbox.local_crm.server import LocalCrm
from sandbox.synthetic_app import generate
from tests.end_to_end.test_both_warehouses import TABLES
from tests.support.bigquery_environment import differences
from tests.support.challenger import challenge
from tests.support.data_tests import with_data_tests
from tests.support.dbt.on_bigquery import PROFILE, record
from tests.support.dbt.on_duckdb import MODELS, PROJECT
from tests.support.dbt.on_google_sql import dbt_reaches
from tests.support.environment import API_KEY, HISTORY_UNTIL, NOW, World, at, load_app, settings_in
from tests.support.google_sql.engine import GoogleSql, NotBigQueryError
from tests.support.google_sql.environment import ROOT, GoogleWorld
from warehouse import crms, lease, ledger
from warehouse.loading import summary as raw_summary
from warehouse.tables import DECISIONS, RAW, VOUCHER_REDEMPTIONS

ALL_TABLES = TABLES | {
    "intermediate.int_sessions": "started_on >= date '1970-01-01'",
    "intermediate.int_outcomes": "true",
    "marts.crm_sync_rejections": "true",
    "marts.crm_sync_runs": "true",
    "marts.fct_late_events": "true",
    "marts.fct_scoring_candidates": "true",
    "marts.fct_training_examples": "true",
}
FOREIGN = {
    "select * exclude (a) from t": "Syntax error",
    "select [x for x in y] as z from t": "Syntax error",
    "select a::int as a from t": "Syntax error",
    "select epoch_us(seen) as b from t": "Function not found: epoch_us",
    "select seen + interval (5) minuten as b from t": "date part",
    "select distinct on (a) a from t": "Syntax error",
    "select a from t qualify": "Syntax error",
    "from t select a": "Syntax error",
    "select a from t where b ilike 'x'": "Syntax error",
    "select a + 1 as c, c + 1 as d from t": "Unrecognized name: c",
    "select count(*) filter (where a > 1) as n from t": "Syntax error",
    "select cast(a as double) as a from t": "Type not found: double",
    # Type errors, which a grammar alone does not detect.
    "select a || b as c from t": "No matching signature for operator ||",
    "select a from t where a = b": "No matching signature for operator =",
    "select coalesce(a, b) as c from t": "No matching signature for function COALESCE",
    "select a from t union all select b from t": "incompatible types",
    "select a, count(*) as n from t": "neither grouped nor aggregated",
    "select seen > '2026-03-05 00:00:00'::timestamp as c from t": "Syntax error",
    "select seen - seen as c, nothing from t": "Unrecognized name: nothing",
    "create or replace table `p`.`d`.`u` (a string)\nas (\nselect a from t\n)": "cannot be coerced from query output type INT64",
    "merge into t as d using t as s on d.a = s.a when matched then update set a = s.b": "Value of type STRING",
}


@pytest.mark.parametrize(("sql", "why"), FOREIGN.items())
def test_sql_that_bigquery_refuses_is_refused_here(sql: str, why: str) -> None:
    google = GoogleSql()
    google.create("p.d.t", {"a": "INT64", "b": "STRING", "seen": "TIMESTAMP"})
    with pytest.raises((ServerError, NotBigQueryError), match=why):
        google.run(re.sub(r"\b(from|join|into|using) t\b", r"\1 `p`.`d`.`t`", sql))


def test_a_merge_does_what_bigquery_says_of_it() -> None:
    google = GoogleSql()
    for name in ("t", "s"):
        google.create(f"p.d.{name}", {"id": "STRING", "n": "INT64"})
    google.append("p.d.t", [{"id": "a", "n": 1}, {"id": "b", "n": 2}, {"id": None, "n": 3}])
    google.append("p.d.s", [{"id": "b", "n": 20}, {"id": "c", "n": 30}, {"id": None, "n": 40}])
    merge = """merge into `p`.`d`.`t` as d using (select * from `p`.`d`.`s`) as s on (s.id = d.id)
        when matched then update set `n` = s.`n` when not matched then insert (`id`, `n`) values (`id`, `n`)"""
    google.run(merge)

    expected = [("a", 1), ("b", 20), ("c", 30), (None, 3), (None, 40)]
    assert sorted((tuple(row.values()) for row in google.rows("p.d.t")), key=str) == sorted(expected, key=str)
    google.append("p.d.s", [{"id": "a", "n": 1}, {"id": "a", "n": 2}])
    with pytest.raises(NotBigQueryError, match="at most one source row"):
        google.run(merge)


@dataclass
class Grown:
    """Two environments after the same commands, DuckDB and GoogleSQL, and the result of each command in both."""

    duckdb: World
    google: GoogleWorld
    returned: list[tuple[Any, Any]]


@pytest.fixture(scope="module")
def grown(history: Path, parsed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grown]:
    """Run every job, so that every kind of row exists."""
    folder = tmp_path_factory.mktemp("google")
    here, there = folder / "duckdb", folder / "google"
    app = generate(seed=3, count_users=40, starts_on=date(2026, 5, 17), count_days=5)
    for place in (here, there):
        shutil.copytree(history / "models", place / "models")
    load_app(app, folder / "app", settings_in(here))
    with (
        LocalCrm(here / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm,
        LocalCrm(there / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as other,
    ):
        worlds = World(here, crm, parsed), GoogleWorld(there, other, parsed)
        with_raw_tables(worlds[1], folder / "app")
        returned = list(zip(*(list(life(world)) for world in worlds), strict=True))
        yield Grown(*worlds, returned)


def with_raw_tables(world: GoogleWorld, files: Path) -> None:
    """Write an app's rows into the raw tables, as its ingestion would."""
    warehouse = world.warehouse()
    warehouse.prepare()
    for name, table in RAW.items():
        warehouse.append(table, pq.read_table(files / f"{name}.parquet"))


def life(world: World) -> Iterator[Any]:
    """Run all commands, and yield for each of them the values that must be equal on both warehouses."""
    settings = world.settings if isinstance(world, GoogleWorld) else settings_in(world.folder)
    challenge(world)
    # Without the backfill's data tests: each also runs in the first hourly run, the nightly run or on the examples.
    with world.context() as context:
        yield backfill(context, HISTORY_UNTIL)
        yield raw_summary.summarise(context.warehouse), raw_summary.counts_by_name(context.warehouse)
    with with_data_tests():
        first = world.run(6, settings=settings.model_copy(update={"shadow": True}))
    yield first.scoring, first.shadow, first.sync, first.arrivals
    decided = "select user_id from ops.decisions where disposition = 'scored' order by is_eligible desc, user_id"
    users = [row["user_id"] for row in world.query(decided)]
    spoil(world, users)
    second = world.run(7)
    yield second.scoring, second.sync, second.arrivals
    with world.context(now=lambda: at(8)) as context:
        yield dead_letters.listed(context)
        yield dead_letters.retry(context)
        # The app owns the raw tables on BigQuery, and winback on DuckDB.
        receipts = erase(context, users[3]).receipts
        yield sorted((r.step, r.outcome, r.count_rows or 0) for r in receipts if not r.step.startswith("raw."))
        yield from races(context)
        yield from other_crms(context)
    yield world.query("select * from marts.crm_pending order by user_id")
    requests.delete(f"{world.crm.url}/_control/faults", timeout=5).raise_for_status()
    last = world.run(24 * 18)
    yield last.scoring, last.sync
    # Both have a loaded_at in an earlier window, so only the nightly search finds them.
    world.append_event(users[4], "help_opened", at(24 * 18 - 30), at(24 * 18 - 20))
    world.append_event(users[5], "help_opened", at(24 * 12), at(24 * 17))
    with with_data_tests(), world.context(now=lambda: at(24 * 18)) as context:
        night = nightly(context)
        yield night.missed, [vars(table) for table in night.tables]
        yield [vars(table) for table in audit(context, 100).tables]
        yield coverage_of_exits(context.warehouse)
        yield examples(context)
        table, until = build_examples(context, None)
        yield table.num_rows, until
        yield vars(status(context)).keys()
        found = last_audit(context.warehouse)
        assert found
        yield check_history(context.warehouse, choose(context.settings).bundle)
        for step in STEPS:  # the queries of a migration; those on raw tables are for DuckDB only
            step.todo(context)
    # As if the clock of the last run had been ahead. Only DuckDB has lost the raw rows of the erased user.
    with world.context(now=lambda: at(9)) as context:
        yield replace(repair_watermark(context), count_rows_ahead={})


def races(context: JobContext) -> Iterator[Any]:
    """Run the queries of rare cases: another run was faster, a dry run, and a run after one that failed."""
    warehouse, last = context.warehouse, ledger.last_epoch(context.warehouse)
    assert last
    yield ledger.commit(warehouse, replace(last, run_id="the-slower-one")).run_id == last.run_id
    yield ledger.first_epoch_after(warehouse, at(6))
    warehouse.discard(DECISIONS, run_id="for trial", decided_at=at(7))
    length = timedelta(minutes=1)
    mine = lease.take(warehouse, "a-run", at(7), at(8), length)
    for _ in range(2):  # the second call acts as after a lost reply
        newer = lease.renew(warehouse, mine, at(8), length)
    yield lease.release(warehouse, newer, at(8))
    yield re_erase_recent(context, at(7), Deadline("a-run", 60))
    yield sum(purge_reappeared_rows(context).values())


def other_crms(context: JobContext) -> Iterator[Any]:
    """A CRM that moves, and a switch back: the last run then sends the whole audience."""
    other = replace(context, crm="hubspot api.hubapi.com")
    assert other_crm(context.warehouse, other.crm)
    yield vars(switch_crm(other, keep_state=True))
    yield vars(switch_crm(context))
    yield check_crm(other).kind  # the state is forgotten, and nothing has been delivered since
    yield crms.left_behind(context.warehouse).keys()


def spoil(world: World, users: list[str]) -> None:
    """Add a withdrawn consent, a row the CRM rejects, a used voucher, and events: late, too late, and one that joins sessions."""
    world.append_profile(users[0], at(6.5), marketing_consent=False)
    world.append_event(users[1], "filing_submitted", at(6.2), at(6.6))
    world.append_event("0000042", "field_saved", at(6.1), at(6.4))  # a user without a profile
    exited_at = world.query(f"select max(exited_at) as exited_at from ops.decisions where user_id = '{users[2]}'")[0][
        "exited_at"
    ]
    world.append_event(users[2], "help_opened", exited_at + timedelta(minutes=9), at(6.7))
    world.append_event(users[0], "help_opened", at(6.5) - timedelta(days=5), at(6.5))
    used = {"redemption_id": "r", "user_id": users[2], "campaign": "c", "redeemed_at": at(6.3), "loaded_at": at(6.4)}
    world._append(VOUCHER_REDEMPTIONS, used)
    fault = {"kind": "row_error", "external_ids": [users[1]]}
    requests.post(f"{world.crm.url}/_control/faults", json=fault, timeout=5).raise_for_status()


def test_every_job_does_in_googles_parts_what_it_does_in_duckdb(grown: Grown) -> None:
    for here, there in grown.returned:
        assert here == there
    assert differences(grown.duckdb, grown.google, ALL_TABLES) == {}
    counts = {t: grown.google.query(f"select count(*) as n from {t} where {w}")[0]["n"] for t, w in ALL_TABLES.items()}
    assert {table for table, count in counts.items() if count == 0} == {"marts.crm_pending"}


def test_every_model_was_built_and_every_data_test_ran(grown: Grown, tmp_path: Path) -> None:
    nodes = {node for node, _ in grown.google.by_dbt}
    assert nodes >= MODELS
    assert nodes >= {path.stem for path in (PROJECT / "tests").glob("*.sql")}
    every = record(tmp_path, "source", "freshness").manifest["nodes"].values()
    tests = {node["name"] for node in every if node["resource_type"] == "test"}
    assert len(tests) > 40
    assert tests - nodes == set()


def test_every_line_of_python_that_sends_sql_was_judged(grown: Grown) -> None:
    """A query that no command above sends fails here, with its file and line."""
    sites = {
        (str(path.relative_to(ROOT)), call.lineno, call.end_lineno or call.lineno)
        for room in ("jobs", "crm_sync", "scoring", "warehouse")
        for path in (ROOT / room).rglob("*.py")
        if not str(path.relative_to(ROOT)).startswith(NOT_BIGQUERY)
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in SENDERS
        and isinstance(call.func.value, ast.Name | ast.Attribute)
        and ast.unparse(call.func.value).split(".")[-1] in DOORS
    }
    places = grown.google.sent.places
    assert len(sites) > 25
    assert {s for s in sites if not any(s[0] == file and s[1] <= line <= s[2] for file, line in places)} == set()


# `discard` is absent: it has one statement, which races() runs.
SENDERS = {"query", "stream", "schema", "delete_users"}
DOORS = {"warehouse", "reader", "self", "client"}
# Code for DuckDB only, and the doctor's queries, which tests/jobs/doctor/test_doctor_bigquery.py tests with dry runs.
NOT_BIGQUERY = (
    "warehouse/duckdb/",
    "warehouse/loading/",
    "warehouse/bigquery/warehouse.py",
    "warehouse/bigquery/doctor.py",
    "jobs/upkeep/demo_mark.py",
)


def invoke(google: GoogleSql, folder: Path, *arguments: str) -> dict[str, str]:
    """Run a dbt command on these tables. Returns the status of each node."""
    (folder / "profiles.yml").write_text(PROFILE)
    with pytest.MonkeyPatch.context() as patch, dbt_reaches(google):
        patch.setenv("WINBACK_WAREHOUSE", "bigquery://some-project/winback")
        outcome = dbtRunner().invoke(
            [
                *arguments,
                *("--project-dir", str(PROJECT), "--profiles-dir", str(folder), "--log-path", str(folder)),
                *("--target-path", str(folder), "--log-level", "none", "--log-level-file", "none"),
                *("--no-populate-cache", "--warn-error"),
            ]
        )
    results = getattr(outcome.result, "results", [])
    assert outcome.exception is None
    return {result.node.name: f"{result.status} {result.message or ''}".strip() for result in results}


def test_every_unit_test_of_dbt_passes_in_googles_parts(grown: Grown, tmp_path: Path) -> None:
    found = invoke(grown.google.google, tmp_path, "test", "--select", "test_type:unit")
    assert {name: what for name, what in found.items() if not what.startswith(("pass", "success"))} == {}
    assert len(found) > 35


def test_the_freshness_of_sources_is_asked_in_googles_sql(grown: Grown, tmp_path: Path) -> None:
    for statement in record(tmp_path, "source", "freshness").statements:
        assert grown.google.google.analyse(statement.sql) == {
            "max_loaded_at": "TIMESTAMP",
            "snapshotted_at": "TIMESTAMP",
        }
