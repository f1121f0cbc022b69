"""How does the embedded warehouse, one DuckDB file, keep the tables?

DuckDB stores UTC without a zone; this door adds the zone on the way out and takes it off on the way in.
One process at a time holds the file: the second gets a BusyError that says who holds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.errors import BusyError, ContractError
from warehouse.tables import ALL, TIMESTAMP, Table

_TYPES = {
    pa.string(): "varchar",
    pa.float64(): "double",
    pa.int64(): "bigint",
    pa.bool_(): "boolean",
    TIMESTAMP: "timestamp",
}
_NAIVE = pa.timestamp("us")


class DuckDBWarehouse:
    """The warehouse in one file. Not thread-safe; dbt opens its own connection in the same process."""

    def __init__(self, path: Path, *, memory_limit: str | None = None) -> None:
        """Open the file, creating it and its folder where missing.

        Raises: BusyError when another process holds the file, ContractError when it is not a DuckDB file.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self.connection = duckdb.connect(str(path))
        except duckdb.IOException as error:
            holder = re.search(r"Conflicting lock is held in (.*?)(?: \(PID (\d+)\))", str(error))
            if holder:
                program, process = Path(holder[1]).name, holder[2]
                raise BusyError(f"{path.name} is held by {program}, process {process}: another run is at it.") from None
            raise ContractError(
                f"{path.name} cannot be opened as a DuckDB file. Is it one, and written by DuckDB {duckdb.__version__} or older?"
            ) from None
        # Not in connect(config=...): the zone needs the ICU extension, which is linked in but loaded after the configuration.
        self.connection.execute("set TimeZone = 'UTC'")
        if memory_limit:
            self.connection.execute("set memory_limit = $limit", {"limit": memory_limit})

    def relation(self, layer: str, name: str) -> str:
        """Return `"layer"."name"`."""
        return f'"{layer}"."{name}"'

    def exists(self, layer: str, name: str) -> bool:
        """Say whether the table or view is there."""
        sql = "select 1 from information_schema.tables where table_schema = $layer and table_name = $name"
        return bool(self.connection.execute(sql, {"layer": layer, "name": name}).fetchone())

    def prepare(self) -> None:
        """Create what is missing."""
        for table in ALL:
            columns = [f"{c.name} {_TYPES[c.type]}{' not null' if c.required else ''}" for c in table.columns]
            if table.is_unique:
                columns.append(f"unique ({', '.join(table.key)})")
            self.connection.execute(f'create schema if not exists "{table.layer}"')
            name = self.relation(table.layer, table.name)
            self.connection.execute(f"create table if not exists {name} ({', '.join(columns)})")

    def query(self, sql: str, parameters: dict[str, Any] | None = None) -> pa.Table:
        """Answer a query whose result is small."""
        return _aware(self.connection.execute(sql, parameters or {}).to_arrow_table())

    def stream(self, sql: str, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """Answer a query in chunks, on a cursor of its own, so that appends may happen meanwhile."""
        with self.connection.cursor() as cursor:
            for batch in cursor.execute(sql).to_arrow_reader(chunk_rows):
                yield from _aware(pa.Table.from_batches([batch])).to_batches()

    def append(self, table: Table, rows: pa.Table | Iterator[pa.RecordBatch]) -> int:
        """Append rows in one transaction."""
        count = 0
        self.connection.begin()
        try:
            for batch in [rows] if isinstance(rows, pa.Table) else rows:
                staged = _naive(batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch]), table)
                self.connection.register("staged", staged)
                self.connection.execute(f"insert into {self.relation(table.layer, table.name)} by name select * from staged")
                self.connection.unregister("staged")
                count += staged.num_rows
        except BaseException:
            self.connection.rollback()
            raise
        self.connection.commit()
        return count

    def append_once(self, table: Table, row: dict[str, Any]) -> bool:
        """Append one row; the unique key decides between contenders."""
        try:
            self.append(table, pa.Table.from_pylist([row], schema=table.schema))
        except duckdb.ConstraintException:
            return False
        return True

    def discard(self, table: Table, run_id: str) -> None:
        """Remove the rows that this run staged."""
        self.connection.execute(f"delete from {self.relation(table.layer, table.name)} where run_id = $run_id", {"run_id": run_id})

    def close(self) -> None:
        """Close the file."""
        self.connection.close()


def _aware(table: pa.Table) -> pa.Table:
    """Say of every zoneless timestamp that it is UTC."""
    for index, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type) and field.type.tz is None:
            column = pc.assume_timezone(table.column(index).cast(_NAIVE), "UTC")
            table = table.set_column(index, pa.field(field.name, TIMESTAMP), column)
    return table


def _naive(table: pa.Table, target: Table) -> pa.Table:
    """Cast to the target's columns and take the zone off; a missing optional column is left out."""
    for column in target.columns:
        if column.name not in table.column_names:
            continue
        index = table.column_names.index(column.name)
        values = table.column(index)
        if column.type == TIMESTAMP:
            values = values.cast(TIMESTAMP).cast(_NAIVE)
        elif not pa.types.is_dictionary(values.type):
            values = values.cast(column.type)
        table = table.set_column(index, column.name, values)
    return table
