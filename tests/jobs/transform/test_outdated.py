"""Warehouses of an earlier version: each command refuses them and names `winback migrate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from core.errors import ContractError
from jobs.doctor.finding import Finding
from jobs.doctor.run import check_history
from jobs.transform.schema_version import check_feature_columns, check_schema_version
from jobs.upkeep.migrate import record
from tests.support.environment import NOW
from tests.support.migrate import old_warehouse
from tests.support.migrate.builders import migrating
from warehouse.duckdb.warehouse import DuckDBWarehouse

CHANGES = (Path(__file__).parents[3] / "CHANGELOG.md").read_text()
SAYS = (
    "An earlier version of winback made this warehouse, and it is not migrated. Stop the schedule, copy the warehouse, and "
    "migrate it: winback migrate --dry-run, then winback migrate"
)
DO = ("Stop the schedule, copy the warehouse, and migrate it:", "winback migrate --dry-run", "winback migrate")


@pytest.fixture
def old(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    """A warehouse of an earlier version, with tables that have this version's columns."""
    old_warehouse.restore(tmp_path / "winback.duckdb")
    with closing(DuckDBWarehouse(tmp_path / "winback.duckdb")) as warehouse:
        for table, column in warehouse.lacking():
            warehouse.add_column(table, column)
        warehouse.prepare()
        yield warehouse


def test_tables_of_ours_without_a_column_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "winback.duckdb"
    made = DuckDBWarehouse(path)
    made.prepare()
    made.connection.execute("alter table ops.reports drop column count_audience")
    with pytest.raises(ContractError) as refused:
        made.prepare()
    made.close()
    assert str(refused.value) == (
        "An earlier version created tables of winback.duckdb: ops.reports has no column count_audience. Stop the schedule, "
        "copy the file, and migrate it: winback migrate --dry-run, then winback migrate"
    )


def test_a_warehouse_that_is_not_migrated_is_refused_though_its_tables_have_every_column(old: DuckDBWarehouse) -> None:
    with pytest.raises(ContractError) as refused:
        check_schema_version(old)
    assert str(refused.value) == SAYS


def test_a_warehouse_that_is_migrated_in_part_is_refused(tmp_path: Path, old: DuckDBWarehouse) -> None:
    old.close()
    with migrating(tmp_path, {}) as context:
        record(context, ["columns", "tables"])
        with pytest.raises(ContractError) as refused:
            check_schema_version(context.warehouse)
        record(context)
        check_schema_version(context.warehouse)
    assert str(refused.value) == SAYS


def test_doctor_finds_it_and_names_the_command(old: DuckDBWarehouse) -> None:
    found = check_history(old, None, NOW)
    assert [finding for finding in found if finding.check == "version"] == [Finding("version", "failed", SAYS, DO)]


def test_examples_of_a_feature_that_no_hour_has_appended_are_refused(old: DuckDBWarehouse) -> None:
    check_feature_columns(old, ["age"])
    with pytest.raises(ContractError, match="fct_exit_features_logged has no column shoe_size"):
        check_feature_columns(old, ["age", "shoe_size"])


def test_the_changelog_names_the_command_and_has_no_steps_by_hand() -> None:
    upgrading = CHANGES.split("### Upgrading")[1]
    assert "winback migrate --dry-run" in upgrading
    assert [word for word in ("ALTER TABLE", "UPDATE ", "dbt run", "INSERT ") if word in upgrading] == []
