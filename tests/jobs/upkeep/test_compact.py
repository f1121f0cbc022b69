"""`winback compact`: no row changes, and no byte of an erased user remains."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

from core.errors import ContractError, RunInProgressError
from jobs.cli.app import cli
from tests.support.builders.erase import eligible, erased
from tests.support.crash.subprocesses import Child
from tests.support.environment import World
from warehouse.duckdb import compact as duckdb_compact
from warehouse.duckdb.compact import compact

CATALOG = """
    select 'table', schema_name, table_name, sql from duckdb_tables()
    union all select 'view', schema_name, view_name, sql from duckdb_views() where not internal
    union all select 'column', schema_name, table_name || '.' || column_name, data_type from duckdb_columns()
    where not internal
    order by all
"""


def contents(file: Path) -> dict[str, Any]:
    """Return the catalog, and a hash and count of the rows of each table and view."""
    with duckdb.connect(str(file), read_only=True) as connection:
        found: dict[str, Any] = {"catalog": connection.execute(CATALOG).fetchall()}
        for kind, schema, name, *_ in found["catalog"]:
            if kind != "column":
                sql = f'select count(*), sum(hash(t)::hugeint) from "{schema}"."{name}" as t'
                found[f"{schema}.{name}"] = connection.execute(sql).fetchall()
    return found


def bytes_beside(file: Path) -> bytes:
    """Return the bytes of the file, its log, and all other files that begin with its name."""
    return b"".join(path.read_bytes() for path in file.parent.rglob(f"*{file.stem}*") if path.is_file())


def test_no_byte_of_an_erased_user_is_left_in_the_file(told: World) -> None:
    user = eligible(told)
    erased(told, user)
    file = told.folder / "winback.duckdb"
    assert user.encode() in bytes_beside(file)  # otherwise the check below would prove nothing

    compact(file)

    assert user.encode() not in bytes_beside(file)
    assert sorted(path.name for path in told.folder.iterdir() if "winback" in path.name) == ["winback.duckdb"]


def test_everything_else_is_as_it_was(told: World) -> None:
    file = told.folder / "winback.duckdb"
    before = contents(file)

    answer = compact(file)

    assert contents(file) == before
    assert (answer.count_tables, answer.count_rows) == (
        sum(kind == "table" for kind, *_ in before["catalog"]),
        sum(before[f"{schema}.{name}"][0][0] for kind, schema, name, *_ in before["catalog"] if kind == "table"),
    )
    assert answer.bytes_after == file.stat().st_size
    assert told.run(7).epoch == 2  # the next run continues from it


@pytest.mark.parametrize("effect", ["rmtree", "mkdir", "_copy_tables", "_copy_views", "_to_disk", "replace"])
def test_killed_at_any_step_the_file_is_whole_and_the_next_try_ends(told: World, effect: str, tmp_path: Path) -> None:
    file = told.folder / "winback.duckdb"
    before = contents(file)

    owner: Any = {"rmtree": shutil, "mkdir": Path, "replace": os}.get(effect, duckdb_compact)

    def killed_there() -> None:
        setattr(owner, effect, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        compact(file)

    assert Child(killed_there, tmp_path).wait() == -signal.SIGKILL

    assert contents(file) == before
    compact(file)
    assert contents(file) == before


def test_a_file_in_use_is_left_alone(told: World) -> None:
    file = told.folder / "winback.duckdb"
    program = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"

        with pytest.raises(RunInProgressError, match=rf"winback\.duckdb is held by python[^,]*, process {holder.pid}"):
            compact(file)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("create macro raw.double(x) as 2 * x", "1 macros"),
        ("create type raw.mood as enum ('good')", "1 types"),
        ("create sequence raw.numbers", "1 sequences"),
        ("create index someones on raw.users (user_id)", "1 indexes"),
    ],
)
def test_what_it_cannot_copy_it_names_and_leaves_the_file(told: World, statement: str, kind: str) -> None:
    file = told.folder / "winback.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute(statement)
    before = contents(file)

    with pytest.raises(ContractError, match=kind):
        compact(file)

    assert contents(file) == before
    assert not list(told.folder.glob(".*compacting*"))


def test_a_missing_file_and_one_of_another_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"absent\.duckdb does not exist"):
        compact(tmp_path / "absent.duckdb")
    (tmp_path / "other.duckdb").write_text("not a database, but long enough to be read as one" * 100)
    with pytest.raises(ContractError, match=r"other\.duckdb cannot be opened\. Check that it is a DuckDB file"):
        compact(tmp_path / "other.duckdb")


def test_the_command_says_what_it_did_and_that_bigquery_has_nothing_to_compact(told: World) -> None:
    file = told.folder / "winback.duckdb"
    environment = {"WINBACK_WAREHOUSE": f"duckdb:///{file}"}

    answer = CliRunner().invoke(cli, ["compact", "--json"], env=environment, catch_exceptions=False)

    assert json.loads(answer.stdout)["bytes_after"] == file.stat().st_size
    shown = CliRunner().invoke(cli, ["compact"], env=environment, catch_exceptions=False)
    assert "winback.duckdb is rewritten" in shown.stdout
    on_bigquery = CliRunner().invoke(cli, ["compact"], env={"WINBACK_WAREHOUSE": "bigquery://some-project/winback"})
    assert isinstance(on_bigquery.exception, ContractError)
    assert "docs/how-to/erase-a-user.md" in str(on_bigquery.exception)
