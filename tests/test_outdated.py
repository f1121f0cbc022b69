"""Is a warehouse that an earlier version made refused with what to do, and do those steps mend it?"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.doctor import of_history
from jobs.examples import examples
from jobs.outdated import COMMANDS, refuse_outdated
from sandbox.crm_server import LocalCrm
from tests.world import API_KEY, NOW, World, copy_history
from warehouse.duckdb import DuckDBWarehouse
from warehouse.errors import ContractError

ROOT = Path(__file__).parents[1]
CHANGES = (ROOT / "CHANGELOG.md").read_text()


def test_tables_of_ours_without_a_column_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "winback.duckdb"
    made = DuckDBWarehouse(path)
    made.prepare()
    made.connection.execute("alter table ops.reports drop column count_audience")
    with pytest.raises(ContractError) as refused:
        made.prepare()
    made.close()
    assert str(refused.value) == (
        "An earlier version made tables of winback.duckdb: ops.reports has no column count_audience. winback doctor prints the "
        "SQL that adds what is missing; CHANGELOG.md, Upgrading, has the other steps."
    )


def test_old_exits_get_the_quotient_of_what_was_logged_of_them_as_it_would_have_been(
    history: Path, tmp_path: Path, parsed: dict[str, Any]
) -> None:
    copy_history(history, tmp_path)
    tables = ("fct_exit_features", "fct_exit_features_logged")
    what = "exit_id, fields_filled_ratio_per_input as ratio"
    old = "exited_on < date '2026-05-10' order by exit_id"
    with LocalCrm(tmp_path / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        world = World(tmp_path, crm, parsed)
        sql = {table: f"select {what} from marts.{table} where {old}" for table in tables}
        before = {table: world.query(sql[table]) for table in tables}
        made = DuckDBWarehouse(tmp_path / "winback.duckdb")
        for table in tables:
            made.connection.execute(f"alter table marts.{table} drop column fields_filled_ratio_per_input")
        made.close()

        with (
            world.house() as house,
            pytest.raises(ContractError, match="no column fields_filled_ratio_per_input"),
        ):
            examples(house)
        assert world.run(6).stopped is None
        assert {row["ratio"] for table in tables for row in world.query(sql[table])} == {None}
        made = DuckDBWarehouse(tmp_path / "winback.duckdb")
        made.connection.execute("\n".join(re.findall(r"^ *(UPDATE .*;)$", CHANGES, re.MULTILINE)))
        made.close()
        assert {table: world.query(sql[table]) for table in tables} == before
        assert len(before["fct_exit_features_logged"]) > 1_000


def test_the_changelog_has_the_commands_that_doctor_prints() -> None:
    assert all(command in CHANGES for command in COMMANDS)


def test_the_steps_of_the_changelog_mend_it(history: Path, tmp_path: Path, parsed: dict[str, Any]) -> None:
    copy_history(history, tmp_path)
    path = tmp_path / "winback.duckdb"
    with LocalCrm(tmp_path / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        world = World(tmp_path, crm, parsed)
        delivered = world.run(6).sync.delivered
        acknowledged = world.query("select * from marts.crm_acknowledged order by user_id")
        made = DuckDBWarehouse(path)
        for column in ("rejected_reason", "is_in_doubt"):
            made.connection.execute(f"alter table marts.crm_acknowledged drop column {column}")
        with pytest.raises(ContractError, match="is_in_doubt, rejected_reason: an earlier version made it"):
            refuse_outdated(made)
        (finding,) = [each for each in of_history(made, None) if each.check == "audience"]
        assert (finding.state, finding.do[1:]) == ("failed", COMMANDS)
        made.connection.execute("alter table ops.deliveries drop column error_reason")
        made.connection.execute("alter table ops.reports drop column count_audience")
        made.close()
        with pytest.raises(ContractError, match=re.escape("winback doctor prints the SQL")):
            world.run(7)

        alters = re.findall(r"^ *(ALTER TABLE .*;)$", CHANGES, re.MULTILINE)
        made = DuckDBWarehouse(path)
        made.connection.execute("\n".join(alters))
        made.close()
        with pytest.raises(ContractError, match="CHANGELOG"):
            world.run(7)
        command = "\n".join(COMMANDS[1:]).replace("../.venv/bin", str(Path(sys.executable).parent))
        # Beside what a developer's own dbt keeps there.
        keeps = f" --target-path {tmp_path / 'target'} --log-path {tmp_path / 'target'}"
        done = subprocess.run(
            ["sh", "-c", command + keeps],
            cwd=ROOT / "dbt",
            env={**os.environ, "WINBACK_WAREHOUSE": f"duckdb:///{path}", "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"},
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        assert delivered > 0
        assert world.query("select * from marts.crm_acknowledged order by user_id") == acknowledged
        assert world.run(7).stopped is None
