"""`winback migrate`: brings a warehouse of an earlier version to this one without losing anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from core.errors import ContractError
from jobs.cli.app import cli
from jobs.models.dataset import examples
from jobs.models.lifecycle import register_trained
from jobs.models.train import train as train_again
from jobs.transform.schema_version import check_schema_version
from jobs.upkeep import migrations
from jobs.upkeep.audit import audit
from jobs.upkeep.backfill import backfill
from jobs.upkeep.migrate import Migrated
from sandbox.local_crm.server import LocalCrm
from scoring.features import FeatureContract
from scoring.features_file import load_contract
from tests.jobs.upkeep.test_compact import contents
from tests.support.environment import API_KEY, CONFIG, NOW, World, at, settings_in
from tests.support.migrate import old_warehouse
from tests.support.migrate.builders import (
    AUDIENCE,
    CRM,
    HOURS,
    LATE,
    REBUILD,
    TRIMMED_AT,
    VIEWS,
    migrated,
    migrating,
    query,
    trim,
)
from tests.support.migrate.old_warehouse import WITHDRAWN, WITHOUT_PROFILE
from training.config import TrainingRules
from training.fitting.search import SearchRules
from training.pipeline import train
from warehouse.duckdb.warehouse import DuckDBWarehouse

# The long form, for `make migrate-test`.
IS_ALL = os.environ.get("MIGRATE") == "all"
MODELS = [
    *("stg_app__events", "int_events__deduplicated", "int_outcomes", "int_users_touched", "int_sessions_this_run"),
    *("int_sessions", "int_exits_this_run", "fct_unfinished_exits", "fct_exit_features", "fct_exit_features_logged"),
]
STEPS = {
    "columns": "add raw.users.loaded_at, ops.runs.funnel, ops.deliveries.crm_number",
    "tables": "create ops.nights, ops.crms",
    "profiles": "set loaded_at of 11 rows in raw.users to their updated_at",
    "views": VIEWS,
    "CRM of deliveries": CRM,
    "events, sessions, exits": REBUILD,
    "late events": LATE,
    "audience": AUDIENCE,
}
# Data that cannot be rebuilt: equal before and after, in the columns that existed before.
KEPT = {
    **{f"raw.{name}": "*" for name in ("app_events", "voucher_redemptions")},
    "raw.users": "* exclude (loaded_at)",
    "ops.runs": "* exclude (funnel)",
    **{f"ops.{name}": "*" for name in ("decisions", "reports", "shadow_scores", "erasures", "leases")},
    "ops.deliveries": "* exclude (crm_number)",
    "marts.crm_acknowledged": "*",
    "marts.fct_exit_features_logged": "*",
}


@dataclass(frozen=True)
class Before:
    """Warehouses that tests/support/migrate/subprocess_run.py made with the old code, and the results of those runs."""

    root: Path
    answers: dict[str, Any]

    @property
    def old(self) -> Path:
        return self.root / "old"

    @property
    def new(self) -> Path:
        return self.root / "new"

    def query(self, sql: str, *, is_old: bool = False) -> list[dict[str, Any]]:
        return query(self.old if is_old else self.new, sql)


def kept(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for table, names in KEPT.items():
        there = {row["name"] for row in query(folder, f"select name from pragma_table_info('{table}')")}
        # Columns that the migration added are left out.
        columns = "*" if "exclude" in names and not {"loaded_at", "funnel", "crm_number"} & there else names
        found[table] = query(folder, f"select {columns} from {table} order by all")
    return found


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Before:
    root = tmp_path_factory.mktemp("migrations")
    (root / "old").mkdir()
    old_warehouse.restore(root / "old" / "winback.duckdb")
    command = [sys.executable, "-m", "tests.support.migrate.subprocess_run", str(root), *(MODELS if IS_ALL else ())]
    run = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return Before(root, json.loads(run.stdout))


@pytest.fixture
def old(before: Before, tmp_path: Path) -> Path:
    """A copy of the old warehouse for one test."""
    shutil.copy(before.old / "winback.duckdb", tmp_path)
    return tmp_path


@pytest.fixture
def new(before: Before, tmp_path: Path) -> Path:
    """A copy of the migrated warehouse for one test."""
    shutil.copy(before.new / "winback.duckdb", tmp_path)
    return tmp_path


def test_a_dry_run_shows_every_step_and_changes_nothing(old: Path, parsed: dict[str, Any]) -> None:
    was = contents(old / "winback.duckdb")

    answer = migrated(old, parsed, dry_run=True)

    assert answer == Migrated(True, STEPS)
    assert contents(old / "winback.duckdb") == was


def test_a_migration_does_the_steps_of_the_dry_run_and_shows_a_line_for_each(before: Before) -> None:
    numbers = [1, 2, 3, 4, 5, 7, 8, 10]
    lines = [f"Step {n} of 10: {what}" for n, what in zip(numbers, STEPS.values(), strict=True)]
    assert before.answers["new"] == {"steps": STEPS, "lines": lines}


def test_a_second_migration_does_nothing(before: Before) -> None:
    assert before.answers["again"] == {"steps": {}, "lines": []}
    assert contents(before.root / "again" / "winback.duckdb") == contents(before.new / "winback.duckdb")


def test_what_cannot_be_built_again_stays(before: Before) -> None:
    log = "marts.fct_exit_features_logged"
    was, is_now = kept(before.old), kept(before.new)
    assert len(was["ops.decisions"]) == 5
    assert len(was["ops.deliveries"]) == 6
    logged = {row["exit_id"]: row for row in is_now.pop(log)}
    was_logged = {row["exit_id"]: row for row in was.pop(log)}
    assert is_now == was
    # Exits that the old code missed are added to the log.
    assert {exit_id: logged[exit_id] for exit_id in was_logged} == was_logged
    assert sorted(row["user_id"] for row in logged.values() if row["exit_id"] not in was_logged) == ["shared-b"]


def test_every_profile_gets_a_time_of_arrival(before: Before) -> None:
    assert before.query("select count(*) as n from raw.users where loaded_at is distinct from updated_at") == [{"n": 0}]


def test_the_audience_hears_of_late_withdrawals_and_knows_who_has_no_profile(before: Before) -> None:
    sql = "select * from marts.crm_profiles order by user_id"
    was, is_now = ({row["user_id"]: row for row in before.query(sql, is_old=is_old)} for is_old in (True, False))
    changed = {WITHDRAWN: ("granted", "no_consent"), WITHOUT_PROFILE: ("no_consent", "no_profile")}
    assert {
        user: (was[user]["voucher_reason"], row["voucher_reason"]) for user, row in is_now.items() if row != was[user]
    } == changed
    memory = ("last_decided_at", "last_probability", "last_granted_at", "last_grant_valid_until", "experiment_arm")
    assert [[row[name] for name in memory] for row in is_now.values()] == [
        [row[name] for name in memory] for row in was.values()
    ]


def test_a_session_beyond_the_maximum_is_cut_and_no_column_is_null(before: Before) -> None:
    sql = "select count_events, is_too_long, is_cut from intermediate.int_sessions where user_id = 'long' order by started_at"
    # 20 days before 16:00. A cell covers 24 hours and ends at midnight UTC.
    assert before.query(sql) == [
        {"count_events": 20, "is_too_long": True, "is_cut": True},
        {"count_events": 43, "is_too_long": True, "is_cut": False},
    ]
    assert before.query(
        "select count(*) as n from intermediate.int_sessions where is_cut is null or is_too_long is null"
    ) == [{"n": 0}]
    assert before.query("select is_session_too_long from marts.fct_unfinished_exits where user_id = 'long'") == [
        {"is_session_too_long": True}
    ]


def test_an_event_that_shared_its_id_is_there_again(before: Before) -> None:
    sql = "select user_id from intermediate.int_events__deduplicated where event_id = 'device-1' order by user_id"
    assert before.query(sql, is_old=True) == [{"user_id": "shared-a"}]
    assert before.query(sql) == [{"user_id": "shared-a"}, {"user_id": "shared-b"}]


def test_features_are_within_their_range(before: Before) -> None:
    rates = "select fields_filled_gain_per_minute as rate from marts.{} where user_id = 'odd-rate'"
    assert before.query(rates.format("fct_exit_features"), is_old=True)[0]["rate"] > 1e6
    assert before.query(rates.format("fct_exit_features")) == [{"rate": pytest.approx(42)}]
    shares = (
        "select fields_filled_ratio, fields_filled_gain_ratio from marts.fct_exit_features where user_id = 'odd-share'"
    )
    assert before.query(shares) == [{"fields_filled_ratio": 70.0, "fields_filled_gain_ratio": None}]


def train_small(folder: Path, count: int = 600) -> None:
    """Train a bundle, which every run needs, on two weak features."""
    rng = np.random.default_rng(1)
    errors = rng.poisson(2, count)
    rows = pa.table(
        {
            "label": (rng.random(count) < 0.3 + errors / 20).astype(np.int64),
            "is_treated": np.zeros(count, dtype=bool),
            "exit_id": [f"exit-{n}" for n in range(count)],
            "user_id": [f"user-{n}" for n in range(count)],
            "exited_at": [at(n - 2_000) for n in range(count)],
            "count_sessions": rng.poisson(3, count),
            "count_error": errors,
        }
    )
    known = {feature.name: feature for feature in load_contract(CONFIG / "features.yml").features}
    contract = FeatureContract(features=(known["count_sessions"], known["count_error"]))
    rules = TrainingRules(search=SearchRules(trials=0))
    made = train(
        rows, contract, folder / "models", trained_at=at(0), until=at(0), label_window_days=14, threads=1, rules=rules
    )
    register_trained(settings_in(folder), made.version)


def test_nothing_differs_from_a_rebuild_and_the_next_hour_goes_on(new: Path, parsed: dict[str, Any]) -> None:
    train_small(new)
    with LocalCrm(new / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        world = World(new, crm, parsed)
        with world.context() as context:
            assert {table.table_name: table.count_rows_differing for table in audit(context, 100).tables} == {
                "int_events__deduplicated": 0,
                "int_outcomes": 0,
                "int_sessions": 0,
                "fct_unfinished_exits": 0,
                "fct_exit_features": 0,
            }
            assert examples(context).count_examples == 4
        repeated, following = world.run(HOURS), world.run(HOURS + 6)
    # The withdrawal that the old code missed is sent; no other user is sent again because of a renamed column.
    assert (repeated.sync.delivered, repeated.sync.withdrawals, repeated.sync.rejected) == (1, 1, 0)
    assert following.scoring
    assert (following.stopped, following.scoring.scored) == (None, 2)
    sql = "select event_id, count(*) as n from marts.fct_late_events group by all"
    assert world.query(sql) == [{"event_id": "late-1", "n": 1}]


def rows(folder: Path) -> dict[str, list[str]]:
    """Return every table with the work of more than one run, columns in alphabetical order."""
    names = query(folder, "select schema_name as layer, table_name as name from duckdb_tables()")
    tables = [f"{row['layer']}.{row['name']}" for row in names if not row["name"].endswith(("_this_run", "_touched"))]
    # A ratio out of range, 70, gives no quotient in an older log.
    ratio = "fields_filled_ratio_per_input"
    quotient = f"* replace (case when fields_filled_ratio <= 1 then {ratio} end as {ratio})"
    columns = {f"marts.{name}": quotient for name in ("fct_exit_features_logged", "fct_training_examples")}
    return {
        table: sorted(
            str(sorted(row.items())) for row in query(folder, f"select distinct {columns.get(table, '*')} from {table}")
        )
        for table in tables
        if table != "ops.reports"
    }


def test_killed_in_each_step_in_turn_it_is_finished_by_the_same_command(before: Before) -> None:
    chain = before.answers["chain"]
    assert chain["ends"] == {step.name: -signal.SIGKILL for step in migrations.STEPS}
    # Until the last step is recorded, every other command refuses the warehouse.
    assert chain["refused"] == [*[True] * len(migrations.STEPS), False]
    assert chain["last"] == ["audience"]
    assert rows(before.root / "killed") == rows(before.new)


@pytest.mark.skipif(not IS_ALL, reason="takes minutes: make migrate-test, which nightly.yml runs")
@pytest.mark.parametrize("model", MODELS)
def test_killed_at_any_table_of_a_rebuild_it_is_finished_by_the_same_command(before: Before, model: str) -> None:
    left = ["events, sessions, exits", "late events", "audience"]
    if model == "stg_app__events":  # it is a view, which an earlier step creates
        left = ["views", "CRM of deliveries", *left]
    assert before.answers["between"][model] == {"end": -signal.SIGKILL, "last": left}
    assert rows(before.root / f"between-{model}") == rows(before.new)


def test_what_was_built_of_raw_events_that_are_gone_stays(old: Path) -> None:
    """An app may delete old raw events. A user who had finished before then stays finished."""
    trim(old)
    moment, day = f"{TRIMMED_AT:%Y-%m-%d %H:%M}", f"{TRIMMED_AT - timedelta(days=5):%Y-%m-%d}"
    older = len(query(old, f"select 1 from intermediate.int_events__deduplicated where loaded_at < '{moment}'"))
    asked = {
        "int_events__deduplicated": f"intermediate.int_events__deduplicated where loaded_at < '{day}'",
        "int_outcomes": "intermediate.int_outcomes",
        "fct_unfinished_exits": f"marts.fct_unfinished_exits where closed_at < '{day}'",
        "fct_exit_features": f"marts.fct_exit_features where exited_at < '{day}'",
    }
    was = {name: query(old, f"select * from {source} order by all") for name, source in asked.items()}

    answer = migrated(old, {})

    assert answer.steps["events, sessions, exits"] == (
        "build events, sessions and exits again from the raw events, which begin at 2026-05-20 18:01 UTC; "
        f"keep what was built from {older} older events that are no longer there"
    )
    for name, source in asked.items():
        is_now = query(old, f"select * from {source} order by all")
        assert [{column: row[column] for column in was[name][0]} for row in is_now] == was[name], name
    # The long session, the shared event, the odd ones, and events of the app's users.
    assert older > 63 + 1 + 4
    assert [row["user_id"] for row in was["int_outcomes"]] == ["odd-share"]


def test_a_column_that_no_version_left_out_is_an_error(tmp_path: Path, parsed: dict[str, Any]) -> None:
    made = DuckDBWarehouse(tmp_path / "winback.duckdb")
    made.prepare()
    made.connection.execute("alter table ops.reports drop column count_events")
    made.close()

    with pytest.raises(ContractError) as refused:
        migrated(tmp_path, parsed)

    assert str(refused.value) == (
        "ops.reports.count_events must have a value in every row, and no version of winback made the table without it. Restore "
        "the table from a backup, or start a new warehouse."
    )


def test_a_changed_funnel_is_refused_before_anything_is_done(new: Path, parsed: dict[str, Any]) -> None:
    with closing(DuckDBWarehouse(new / "winback.duckdb")) as warehouse:
        warehouse.connection.execute("""delete from ops.migrations where step = 'audience'""")
        warehouse.connection.execute("""update ops.runs set funnel = '{"session_gap_minutes": 31}'""")
    with pytest.raises(ContractError, match="session_gap_minutes was 31 and is 30"):
        migrated(new, parsed)


def test_a_warehouse_without_history_needs_its_tables_alone(tmp_path: Path, parsed: dict[str, Any]) -> None:
    DuckDBWarehouse(tmp_path / "winback.duckdb").close()
    made = "create raw.app_events, raw.users, raw.voucher_redemptions, ops.runs, ops.decisions, "
    assert migrated(tmp_path, parsed).steps["tables"].startswith(made)
    assert migrated(tmp_path, parsed).steps == {}


def test_a_backfill_that_was_killed_leaves_no_warehouse_to_be_migrated(
    old: Path, parsed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(DuckDBWarehouse(old / "winback.duckdb")) as warehouse:
        warehouse.connection.execute("alter table raw.users add column loaded_at timestamp; drop table ops.runs")
        warehouse.connection.execute("alter table ops.deliveries add column crm_number bigint")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jobs.upkeep.backfill.build_history", killed)
    with migrating(old, parsed) as context:
        context.warehouse.prepare()
        with pytest.raises(KeyboardInterrupt):
            backfill(context, at(0))
    with closing(DuckDBWarehouse(old / "winback.duckdb")) as warehouse:
        check_schema_version(warehouse)


def environment(folder: Path) -> dict[str, str]:
    paths = {
        "WAREHOUSE": f"duckdb:///{folder / 'winback.duckdb'}",
        "MODELS": folder / "models",
        "DBT_TARGET": folder / "dbt",
    }
    return {"WINBACK_REGISTRY": "none", **{f"WINBACK_{name}": str(value) for name, value in paths.items()}}


def test_the_command_shows_the_steps_and_what_comes_next(old: Path) -> None:
    def winback(*words: str) -> str:
        return CliRunner().invoke(cli, words, env=environment(old), catch_exceptions=False).stdout

    shown = winback("migrate", "--dry-run")
    assert " ".join(shown.split()) == (
        " ".join(f"· {name}: {what}" for name, what in STEPS.items()) + " Next: winback migrate"
    )
    assert json.loads(winback("migrate", "--dry-run", "--json")) == {"is_dry_run": True, "steps": STEPS}


def test_a_file_in_use_is_refused_with_exit_code_2_and_who_has_it(old: Path) -> None:
    program = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(old / "winback.duckdb")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        for words in (["migrate"], ["migrate", "--dry-run"]):
            refused = CliRunner().invoke(cli, words, env=environment(old)).exception
            assert isinstance(refused, ContractError)
            assert refused.exit_code == 2
            assert re.match(rf"winback\.duckdb is held by python[^,]*, process {holder.pid}\.", str(refused))
            assert str(refused).endswith("stop the schedule, wait, and run winback migrate again.")


@pytest.fixture(scope="module")
def made_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warehouse that an earlier commit's code made."""
    if not IS_ALL:
        pytest.skip("takes minutes: make migrate-test, which nightly.yml runs")
    if not old_warehouse.is_at_hand():
        pytest.skip(f"this clone has no commit {old_warehouse.COMMIT[:7]}: git fetch --unshallow")
    folder = tmp_path_factory.mktemp("before")
    old_warehouse.make(folder)
    return folder


def test_a_warehouse_made_by_the_old_code_itself_is_migrated_and_trained_on(
    made_before: Path, tmp_path: Path, parsed: dict[str, Any]
) -> None:
    for name in ("winback.duckdb", "crm.sqlite"):
        shutil.copy(made_before / name, tmp_path)
    shutil.copytree(made_before / "models", tmp_path / "models")
    was = kept(tmp_path)

    migrated(tmp_path, parsed)

    is_now = kept(tmp_path)
    log = {row["exit_id"]: row for row in is_now.pop("marts.fct_exit_features_logged")}
    assert all(log[row["exit_id"]] == row for row in was.pop("marts.fct_exit_features_logged"))
    assert is_now == was
    with LocalCrm(tmp_path / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        world = World(tmp_path, crm, parsed)
        with world.context() as context:
            assert [table.count_rows_differing for table in audit(context, 100).tables] == [0] * 5
            assert train_again(context).alias == "challenger"
        repeated, following = world.run(HOURS), world.run(HOURS + 6)
    assert (repeated.sync.delivered, repeated.sync.rejected) == (0, 0)
    assert following.scoring
    assert (following.stopped, following.scoring.scored > 0, following.sync.delivered > 0) == (None, True, True)


def test_the_sql_of_the_small_one_has_the_tables_that_the_old_code_makes(made_before: Path) -> None:
    def shapes(sql: str) -> list[str]:
        return [line for line in sql.splitlines() if line.startswith("CREATE")]

    made = old_warehouse.written(old_warehouse.make_small(made_before))
    assert shapes(made) == shapes(old_warehouse.SQL.read_text())
