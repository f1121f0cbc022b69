"""`winback migrate` brings a warehouse that an earlier version made to this one."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobs import migrations
from jobs.audit import audit
from jobs.cli import cli
from jobs.house import open_house
from jobs.migrate import Migrated, migrate
from jobs.outdated import refuse_outdated
from sandbox.crm_server import LocalCrm
from tests import old_warehouse
from tests.forks import Child
from tests.test_compact import contents
from tests.world import API_KEY, NOW, World, settings_in
from warehouse.duckdb import DuckDBWarehouse
from warehouse.errors import ContractError

HOURS = 2 * old_warehouse.COUNT_HOURS


@pytest.fixture(scope="module")
def made_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an earlier commit of this repository left."""
    if not old_warehouse.is_at_hand():
        pytest.skip(f"this clone has no commit {old_warehouse.BEFORE_FIELD_FAULTS[:7]}: git fetch --unshallow")
    folder = tmp_path_factory.mktemp("before")
    old_warehouse.make(folder)
    return folder


@pytest.fixture
def old(made_before: Path, tmp_path: Path, parsed: dict[str, Any]) -> Iterator[World]:
    """A copy of it for one test, with its CRM."""
    for name in ("winback.duckdb", "crm.sqlite"):
        shutil.copy(made_before / name, tmp_path / name)
    shutil.copytree(made_before / "models", tmp_path / "models")
    with LocalCrm(tmp_path / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        yield World(tmp_path, crm, parsed)


def migrated(world: World, **options: Any) -> Migrated:
    with open_house(
        settings_in(world.folder),
        is_migrating=True,
        destination=world.destination(),
        parsed=world.parsed,
        now=lambda: NOW,
    ) as house:
        return migrate(house, **options)


def test_a_run_refuses_it_and_names_the_command(old: World) -> None:
    with pytest.raises(ContractError, match="winback migrate --dry-run, then winback migrate"):
        old.run(HOURS)


def test_a_dry_run_says_every_step_and_changes_nothing(old: World) -> None:
    before = contents(old.folder / "winback.duckdb")

    answer = migrated(old, dry_run=True)

    assert list(answer.steps) == [
        "columns",
        "tables",
        "arrivals of profiles",
        "views",
        "events, sessions, exits",
        "audience",
    ]
    assert answer.steps["columns"].startswith("add ")
    assert contents(old.folder / "winback.duckdb") == before


def test_after_it_the_next_run_goes_on_and_nothing_differs_from_a_rebuild(old: World) -> None:
    migrated(old)

    again = migrated(old)
    assert again.steps == {}
    repeated = old.run(HOURS)
    # Nobody is told twice because something has another name now.
    assert (repeated.sync.delivered, repeated.sync.rejected) == (0, 0)
    with old.house() as house:
        assert {table.table_name: table.count_rows_differing for table in audit(house, 100).tables} == {
            "int_events__deduplicated": 0,
            "int_outcomes": 0,
            "int_sessions": 0,
            "fct_unfinished_exits": 0,
            "fct_exit_features": 0,
        }
    next_run = old.run(HOURS + 6)
    assert next_run.scoring
    assert (next_run.stopped, next_run.scoring.scored > 0, next_run.sync.delivered > 0) == (None, True, True)


@pytest.mark.parametrize("place", range(len(migrations.STEPS)))
def test_killed_after_any_step_it_is_finished_by_the_same_command(
    old: World, place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = migrations.STEPS[place].name

    def killed_there() -> None:
        step = migrations.STEPS[place]

        def apply(house: Any) -> None:
            step.apply(house)
            os.kill(os.getpid(), signal.SIGKILL)

        steps = (*migrations.STEPS[:place], migrations.Step(name, step.todo, apply), *migrations.STEPS[place + 1 :])
        for module in ("jobs.migrations", "jobs.migrate"):
            monkeypatch.setattr(f"{module}.STEPS", steps)
        migrated(old)

    Child(killed_there, tmp_path).wait()

    migrated(old)
    made = DuckDBWarehouse(tmp_path / "winback.duckdb")
    made.prepare()
    refuse_outdated(made)
    made.close()


def test_a_column_that_no_version_left_out_is_an_error(tmp_path: Path, parsed: dict[str, Any]) -> None:
    made = DuckDBWarehouse(tmp_path / "winback.duckdb")
    made.prepare()
    made.connection.execute("alter table ops.reports drop column count_events")
    made.close()

    with LocalCrm(tmp_path / "crm.sqlite", api_key=API_KEY) as crm, pytest.raises(ContractError) as refused:
        migrated(World(tmp_path, crm, parsed))

    assert str(refused.value).startswith("ops.reports.count_events must have a value in every row")


def test_the_command_shows_the_steps_and_what_comes_next(old: World) -> None:
    environment = {
        "WINBACK_WAREHOUSE": f"duckdb:///{old.folder / 'winback.duckdb'}",
        "WINBACK_MODELS": str(old.folder / "models"),
        "WINBACK_REGISTRY": "none",
        "WINBACK_DBT_TARGET": str(old.folder / "dbt"),
    }

    shown = CliRunner().invoke(cli, ["migrate", "--dry-run"], env=environment, catch_exceptions=False).stdout
    told = CliRunner().invoke(cli, ["migrate", "--json"], env=environment, catch_exceptions=False).stdout

    assert "· views: make the views of staging again" in shown
    assert shown.endswith("Next: winback migrate\n")
    assert json.loads(told)["is_dry_run"] is False
    assert "views" in json.loads(told)["steps"]
