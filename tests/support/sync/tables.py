"""The sync's tables in memory, as dbt makes them, fast enough for a hundred syncs a second.

dbt compiles the models once per process. Their SQL is executed in memory with the fold's two bounds replaced. The desired state
is a plain table that tests write to, with the hash that the model itself computes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import duckdb

from jobs.context import open_context
from jobs.transform.dbt import Window
from tests.support.environment import settings_in
from warehouse.duckdb.warehouse import TYPES, DuckDBWarehouse
from warehouse.tables import CRM_STATE

# Neither occurs in other SQL. If a bound were not replaced, nothing would be folded, and every law of a second run would fail.
_EPOCH, _AT = 987_654_321, datetime(2500, 7, 1, 13, 7, 9, tzinfo=UTC)
_BEFORE = datetime(2100, 1, 1, tzinfo=UTC)
_MODELS = ("stg_ops__deliveries", "crm_profiles", "crm_acknowledged", "crm_pending")


@dataclass(frozen=True)
class Compiled:
    """The models' SQL. The first fold creates the table that later ones merge into."""

    deliveries: str
    pending: str
    first_fold: str
    later_fold: str
    desired_hash: str


@cache
def compiled() -> Compiled:
    """Return all SQL as dbt would execute it. Takes five seconds, once per process."""
    # A database is named after its file, and one in memory is named memory, so that dbt's SQL fits without changes.
    with TemporaryDirectory() as folder:
        path = Path(folder) / "memory.duckdb"
        DuckDBWarehouse(path).close()
        with open_context(settings_in(Path(folder), warehouse=f"duckdb:///{path}")) as context:
            window = Window(_BEFORE, _BEFORE, _BEFORE, fold_from_epoch=_EPOCH, fold_from_at=_AT)
            transform = context.transform(window)
            manifest = transform.parse()

            def sql() -> dict[str, str]:
                asked = ["compile", "--select", *_MODELS, *transform._options, *transform._vars()]
                answer = transform._invoke(asked, manifest)
                assert answer.success, answer.exception
                return {each.node.name: each.node.compiled_code for each in answer.result.results}

            first = sql()
            # If the table exists, dbt compiles the model as incremental.
            connected = cast("DuckDBWarehouse", context.warehouse).connection
            connected.execute("create schema marts; create table marts.crm_acknowledged (user_id varchar)")
            later = sql()
    hashed = re.search(r"(md5\(concat\(.*\)\)) as desired_hash", first["crm_profiles"], re.DOTALL)
    assert hashed
    return Compiled(
        first["stg_ops__deliveries"],
        first["crm_pending"],
        first["crm_acknowledged"],
        later["crm_acknowledged"],
        hashed[1],
    )


class SyncTables:
    """Tables for a sequence of syncs, in memory."""

    def __init__(self) -> None:
        """Create the tables, empty."""
        sql = compiled()
        self.warehouse = DuckDBWarehouse(Path(":memory:"))
        self.warehouse.prepare()
        execute = self.warehouse.connection.execute
        # For a few rows, a query plan costs more than it saves.
        execute("set threads = 1; pragma disable_optimizer")
        execute("create schema staging; create schema marts")
        columns = ", ".join(f"{name} {TYPES[kind]}" for name, kind in CRM_STATE.items())
        execute(
            f"create table marts.crm_profiles (user_id varchar, is_erased boolean, {columns}, desired_hash varchar)"
        )
        execute(f"create view staging.stg_ops__deliveries as {sql.deliveries}")
        execute(f"create table marts.crm_acknowledged as {_bounded(sql.first_fold, 0, _BEFORE)}")
        execute(f"create view marts.crm_pending as {sql.pending}")

    def forget(self) -> None:
        """Empty every table."""
        for layer, name in self.rows(
            "select table_schema, table_name from information_schema.tables where table_type = 'BASE TABLE'"
        ):
            self.warehouse.connection.execute(f'delete from "{layer}"."{name}"')

    def desire(self, user_id: str, *, is_erased: bool = False, **state: Any) -> str:
        """Set the user's desired state and return its hash. Omitted fields are null."""
        row = {"user_id": user_id, "is_erased": is_erased, **dict.fromkeys(CRM_STATE), **state}
        execute = self.warehouse.connection.execute
        execute("delete from marts.crm_profiles where user_id = $user_id", {"user_id": user_id})
        names = ", ".join(f"${name} as {name}" for name in row)
        values = {k: v.astimezone(UTC).replace(tzinfo=None) if isinstance(v, datetime) else v for k, v in row.items()}
        hashed = compiled().desired_hash
        columns = ", ".join(f"cast({name} as {TYPES[kind]}) as {name}" for name, kind in CRM_STATE.items())
        sql = f"""
            insert into marts.crm_profiles by name
            select *, {hashed} as desired_hash from (select user_id, is_erased, {columns} from (select {names}))
            returning desired_hash
        """
        return str(execute(sql, values).fetchall()[0][0])

    def fold(self, window: Window) -> None:
        """Do the same as building crm_acknowledged over a window."""
        source = _bounded(compiled().later_fold, window.fold_from_epoch, window.fold_from_at)
        self.warehouse.connection.execute(
            f"merge into marts.crm_acknowledged using ({source}) as folded using (user_id) "
            "when matched then update by name when not matched then insert by name"
        )

    def another_connection(self) -> duckdb.DuckDBPyConnection:
        """Open the same tables for a concurrent run, or for one that will die."""
        other = self.warehouse.connection.cursor()
        other.execute("set TimeZone = 'UTC'")
        return other

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Query the tables."""
        return self.warehouse.connection.execute(sql).fetchall()

    def dicts(self, sql: str) -> list[dict[str, Any]]:
        """Query rows as dicts, times in UTC."""
        rows: list[dict[str, Any]] = self.warehouse.query(sql).to_pylist()
        return rows

    def desired(self) -> Mapping[str, dict[str, Any]]:
        """Return the desired state by user."""
        return {row["user_id"]: row for row in self.dicts("select * from marts.crm_profiles order by user_id")}

    def close(self) -> None:
        """Close the database."""
        self.warehouse.close()


def _bounded(fold: str, epoch: int, at: datetime) -> str:
    moment = at.astimezone(UTC).replace(tzinfo=None)
    return fold.replace(str(_EPOCH), str(epoch)).replace("2500-07-01 13:07:09", moment.isoformat(sep=" "))
