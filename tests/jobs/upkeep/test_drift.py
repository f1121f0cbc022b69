"""Drift: the nightly corrects rows that differ from the raw events, and the audit finds them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from rich.console import Console

from core.errors import RetryableError
from core.progress import NullProgress
from jobs.context import JobContext
from jobs.hourly.run import hourly
from jobs.output import checks
from jobs.output import runs as screens
from jobs.status import Status, status
from jobs.upkeep.audit import Audit, audit
from jobs.upkeep.nightly import NightlyResult, nightly
from sandbox.local_crm.server import LocalCrm
from tests.support.environment import API_KEY, HISTORY_UNTIL, NOW, World, at, copy_history
from warehouse import ledger
from warehouse.tables import RUNS

# Four days after the backfill, so that a nightly's three days do not reach the backfill.
LAST = 96
NIGHT_FROM = f"timestamp '{at(LAST) - timedelta(days=3):%Y-%m-%d %H:%M}'"
UNTIL = f"timestamp '{at(LAST):%Y-%m-%d %H:%M}'"

# Rows that a nightly might change. Dissolved rows mean nothing and may disappear.
KEPT = {
    "int_events__deduplicated": "intermediate.int_events__deduplicated",
    "int_outcomes": "intermediate.int_outcomes",
    "int_sessions": "intermediate.int_sessions where not is_dissolved",
    "fct_unfinished_exits": "marts.fct_unfinished_exits where not is_dissolved",
    "fct_exit_features": """marts.fct_exit_features
        where exit_id in (select exit_id from marts.fct_unfinished_exits where not is_dissolved)""",
    "fct_exit_features_logged": "marts.fct_exit_features_logged",
    "fct_scoring_candidates": "marts.fct_scoring_candidates",
    "fct_arrivals": "marts.fct_arrivals",
    "decisions": "ops.decisions",
    "reports": "ops.reports",
}
AUDITED = [*KEPT][:5]


@pytest.fixture(scope="module")
def days(history: Path, tmp_path_factory: pytest.TempPathFactory, parsed: dict[str, Any]) -> Path:
    """Four days of runs; each test copies the result."""
    folder = tmp_path_factory.mktemp("days")
    copy_history(history, folder)
    with LocalCrm(folder / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        for hours in (1, 40, LAST - 1, LAST):
            World(folder, crm, parsed).run(hours)
    return folder


@pytest.fixture
def world(days: Path, tmp_path: Path, parsed: dict[str, Any]) -> Iterator[World]:
    copy_history(days, tmp_path)
    with LocalCrm(tmp_path / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        yield World(tmp_path, crm, parsed)


def differing_from(days: Path, world: World) -> dict[str, int]:
    """Count the rows that only one of the two has, by table; equal tables are left out."""
    found = {}
    with duckdb.connect(str(world.folder / "winback.duckdb")) as connection:
        connection.execute(f"attach '{days / 'winback.duckdb'}' as healthy (read_only)")
        for name, rows in KEPT.items():
            here, there = f"select * from {rows}", f"select * from {rows}".replace("from ", "from healthy.")
            sql = f"(({here}) except all ({there})) union all (({there}) except all ({here}))"
            found[name] = connection.sql(f"select count(*) from ({sql})").fetchall()[0][0]
    return {name: count for name, count in found.items() if count}


def damage(world: World, *statements: str) -> int:
    """Change rows by hand, which must not happen; returns the number of rows changed."""
    return sum(world.query(statement)[0]["Count"] for statement in statements)


def rebuild(world: World) -> NightlyResult:
    with world.context() as context:
        return nightly(context)


def run_audit(world: World, percent: int) -> Audit:
    with world.context() as context:
        return audit(context, percent)


def differing(found: Audit) -> dict[str, int]:
    return {table.table_name: table.count_rows_differing for table in found.tables if table.count_rows_differing}


def seen(world: World) -> Status:
    with world.context() as context:
        return status(context)


def shown(screen: Any, answer: Any) -> str:
    console = Console(width=200, file=io.StringIO())
    screen(console, answer)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def rows_of(world: World, rows: str) -> int:
    count: int = world.query(f"select count(*) as n from {rows}")[0]["n"]
    return count


def test_a_night_leaves_healthy_tables_decisions_and_candidates_as_they_are(days: Path, world: World) -> None:
    night = rebuild(world)

    assert differing_from(days, world) == {}
    assert (night.window_from, night.window_until) == (at(LAST - 72), at(LAST))
    assert [table.table_name for table in night.tables] == [*KEPT][:6]
    assert all(table.count_rows_before == table.count_rows_after > 0 for table in night.tables)
    assert not night.is_corrected


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(
            [
                f"delete from intermediate.int_events__deduplicated where loaded_at >= {NIGHT_FROM} and hash(event_id) % 5 = 0",
                f"delete from intermediate.int_sessions where last_loaded_at >= {NIGHT_FROM} and hash(session_id) % 5 = 0",
                f"delete from marts.fct_unfinished_exits where exited_at >= {NIGHT_FROM} and hash(exit_id) % 5 = 0",
                f"delete from marts.fct_exit_features where exited_at >= {NIGHT_FROM} and hash(exit_id) % 3 = 0",
            ],
            id="lost",
        ),
        pytest.param(
            [
                f"""update intermediate.int_events__deduplicated
                set occurred_at = occurred_at + interval 40 minute, step = 'income', outcome = 'finished'
                where loaded_at >= {NIGHT_FROM} and hash(event_id) % 5 = 0""",
                f"""update intermediate.int_sessions set ended_at = ended_at + interval 50 minute, count_events = 99
                where last_loaded_at >= {NIGHT_FROM} and hash(session_id) % 5 = 0""",
                f"""update marts.fct_unfinished_exits set is_dissolved = true, session_id = 'altered'
                where exited_at >= {NIGHT_FROM} and hash(exit_id) % 5 = 0""",
                f"""update marts.fct_exit_features set count_sessions = 99, device_type = null
                where exited_at >= {NIGHT_FROM} and hash(exit_id) % 5 = 0""",
            ],
            id="altered",
        ),
        pytest.param(
            [
                f"""insert into intermediate.int_sessions by name
                select * replace ('stray-' || session_id as session_id, ended_at + interval 2 hour as ended_at)
                from intermediate.int_sessions
                where last_loaded_at >= {NIGHT_FROM} and not is_dissolved and hash(session_id) % 5 = 0""",
                f"""insert into marts.fct_unfinished_exits by name
                select * replace ('stray-' || exit_id as exit_id) from marts.fct_unfinished_exits
                where exited_at >= {NIGHT_FROM} and not is_dissolved and hash(exit_id) % 5 = 0""",
            ],
            id="stray",
        ),
    ],
)
def test_a_night_mends_what_was_damaged_and_says_of_how_many_users(
    days: Path, world: World, statements: list[str]
) -> None:
    assert damage(world, *statements) > 20
    damaged = differing_from(days, world)

    night = rebuild(world)

    assert differing_from(days, world) == {}
    corrected = {table.table_name: table.count_users_corrected for table in night.tables}
    assert {name for name, count in corrected.items() if count} == set(damaged)
    assert all(0 < corrected[name] <= count for name, count in damaged.items())


def test_what_a_model_saw_is_never_written_again(world: World) -> None:
    damage(world, "update marts.fct_exit_features_logged set count_events = 4711")
    damage(world, "update marts.fct_exit_features set count_events = 4711")

    rebuild(world)

    assert world.query("select distinct count_events from marts.fct_exit_features_logged") == [{"count_events": 4711}]
    since = f"select count(*) as n from marts.fct_exit_features where count_events = 4711 and exited_at >= {NIGHT_FROM}"
    assert world.query(since) == [{"n": 0}]


def test_a_night_right_after_the_backfill_has_nothing_to_do(history: Path, world: World) -> None:
    (world.folder / "winback.duckdb").unlink()
    (world.folder / "winback.duckdb").write_bytes((history / "winback.duckdb").read_bytes())

    night = rebuild(world)

    assert (night.window_from, night.window_until, night.tables) == (HISTORY_UNTIL, HISTORY_UNTIL, [])


class Meanwhile(NullProgress):
    """Commits another epoch when the rebuild begins, as a concurrent hourly run would."""

    context: JobContext

    def step(self, what: str, **facts: Any) -> None:
        last = ledger.last_epoch(self.context.warehouse)
        assert last is not None
        changes = {"epoch": last.epoch + 1, "run_id": "another", "window_until": last.window_until + timedelta(hours=1)}
        self.context.warehouse.append(RUNS, pa.Table.from_pylist([asdict(last) | changes], schema=RUNS.schema))


def test_a_night_into_which_an_hour_committed_asks_to_be_run_again(world: World) -> None:
    meanwhile = Meanwhile()
    with world.context(reporter=meanwhile) as context:
        meanwhile.context = context
        with pytest.raises(RetryableError, match="Run the nightly again"):
            nightly(context)


def test_an_audit_of_healthy_tables_finds_nothing(world: World) -> None:
    assert "never: winback audit" in shown(checks.status, seen(world))

    every, tenth = run_audit(world, 100), run_audit(world, 10)

    assert [table.table_name for table in every.tables] == AUDITED
    assert (differing(every), differing(tenth), every.drift) == ({}, {}, None)
    assert (every.audited_until, every.audited_at) == (at(LAST), NOW)
    for table, sample in zip(every.tables, tenth.tables, strict=True):
        assert table.count_rows == rows_of(world, KEPT[table.table_name])
        assert sample.count_users == pytest.approx(table.count_users / 10, rel=0.2)
    kept = world.query("select audit_id, count(*) as n from ops.audits group by 1 order by min(sample_percent)")
    assert kept == [{"audit_id": tenth.audit_id, "n": 5}, {"audit_id": every.audit_id, "n": 5}]


def test_an_audit_counts_the_damaged_rows_of_the_sampled_users(world: World) -> None:
    sampled = "mod(cast(concat('0x', substr(md5(user_id), 1, 15)) as bigint), 100) < 10"
    sessions = f"started_at < timestamp '{HISTORY_UNTIL - timedelta(days=20):%Y-%m-%d}' and hash(session_id) % 100 = 0"
    exits = f"{KEPT['fct_exit_features']} and hash(exit_id) % 100 = 0"
    nobody = "(select 'stray-' || i as user_id from range(200) as strays(i))"
    expected = {
        "int_sessions": 2 * rows_of(world, f"intermediate.int_sessions where {sessions} and {sampled}"),
        "fct_unfinished_exits": rows_of(world, f"{nobody} where {sampled}"),
        "fct_exit_features": rows_of(world, f"{exits} and {sampled}"),
    }
    altered = f"update intermediate.int_sessions set count_events = 99 where {sessions}"
    lost = "delete from marts.fct_exit_features where hash(exit_id) % 100 = 0"
    stray = f"""insert into marts.fct_unfinished_exits
        select 'x' || user_id, user_id, 's', {UNTIL}, {UNTIL}, {UNTIL}, false, false from {nobody}"""
    damage(world, altered, lost, stray)

    found = run_audit(world, 10)

    assert min(expected.values()) > 5
    assert differing(found) == expected
    assert found.drift is not None
    assert found.drift.exit_code == 3
    last = seen(world).last_audit
    assert last is not None
    assert (last.sample_percent, last.count_rows_differing) == (10, sum(expected.values()))
    assert f"{sum(expected.values())} of" in shown(checks.status, seen(world))


def test_what_a_dry_run_built_beyond_the_watermark_is_no_drift(world: World) -> None:
    with world.context() as context:
        hourly(context, at(LAST + 6), dry_run=True)

    found, night = run_audit(world, 50), rebuild(world)

    assert (differing(found), night.is_corrected) == ({}, False)
    assert all(table.count_users > 500 for table in found.tables)


def test_an_event_too_late_is_counted_wherever_one_would_look(world: World) -> None:
    occurred, loaded = at(LAST) - timedelta(days=5), at(LAST + 0.5)
    world.append_event("u-too-late", "help_opened", occurred, loaded)

    result = world.run(LAST + 1)

    count = result.arrivals.too_late
    assert count >= 1
    arrived = f"select * from marts.fct_arrivals where window_from = {UNTIL}"
    assert [(r["window_until"], r["count_events_too_late"]) for r in world.query(arrived)] == [(at(LAST + 1), count)]
    late = f"select event_id, user_id, lateness_days, loaded_on from marts.fct_late_events where loaded_at >= {UNTIL}"
    rows = world.query(late)
    assert len(rows) == count
    assert [(r["lateness_days"], r["loaded_on"]) for r in rows if r["user_id"] == "u-too-late"] == [
        (pytest.approx((loaded - occurred) / timedelta(days=1)), loaded.date())
    ]
    reports = world.query("select count_events_too_late from ops.reports order by epoch desc limit 1")
    assert reports == [{"count_events_too_late": count}]
    assert f"{count} too late" in shown(screens.ran, result)
    assert str(count) in shown(checks.status, seen(world)).split("last runs")[1].splitlines()[2].split()


def test_a_window_built_again_up_to_another_end_is_counted_once(world: World) -> None:
    with world.context() as context:
        dry = hourly(context, at(LAST + 1), dry_run=True)
    wet, again = world.run(LAST + 2), world.run(LAST + 2)

    windows = world.query("select window_from, window_until, count_events from marts.fct_arrivals order by 1")
    edges = [
        datetime(1970, 1, 1, tzinfo=NOW.tzinfo),
        HISTORY_UNTIL,
        *(at(h) for h in (1, 40, LAST - 1, LAST, LAST + 2)),
    ]
    assert [(w["window_from"], w["window_until"]) for w in windows] == list(pairwise(edges))
    assert windows[-1]["count_events"] == wet.arrivals.events > dry.arrivals.events
    loaded = world.query(f"select count(*) as n from raw.app_events where loaded_at < {UNTIL} + interval 2 hour")
    assert sum(w["count_events"] for w in windows) == loaded[0]["n"]
    assert again.arrivals.events == 0
