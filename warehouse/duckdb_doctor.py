"""What does a DuckDB file look like, without opening it for writing?"""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

from warehouse.duckdb import _TYPES, DuckDBWarehouse
from warehouse.errors import BusyError, ContractError
from warehouse.tables import ALL


class ReadOnlyDuckDB(DuckDBWarehouse):
    """The file as it is: not a byte of it, nor of a log that a killed run left beside it, is changed."""

    def __init__(self, path: Path) -> None:
        """Open the file for reading.

        Raises: BusyError when another process holds it for writing, ContractError when it is absent or no DuckDB file.
        """
        if not path.is_file():
            raise ContractError(f"There is no warehouse {path.name} in its folder.")
        self.path = path
        try:
            self.connection = duckdb.connect(str(path), read_only=True)
        except duckdb.IOException as error:
            holder = re.search(r"Conflicting lock is held in (.*?)(?: \(PID (\d+)\))", str(error))
            if holder:
                raise BusyError(f"{path.name} is held by {Path(holder[1]).name}, process {holder[2]}.") from None
            raise ContractError(f"{path.name} cannot be opened by DuckDB {duckdb.__version__}.") from None
        self.connection.execute("set TimeZone = 'UTC'")

    @property
    def version(self) -> str:
        """The version of DuckDB that reads the file."""
        return duckdb.__version__

    def refuse_renamed(self) -> None:
        """Refuse a file whose views know it by another name.

        Raises: ContractError.
        """
        self._refuse_renamed()

    def types(self) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
        """By `layer.name`, the columns (name -> type) of the tables that are there, and those that this version wants."""
        sql = "select table_schema, table_name, column_name, data_type from information_schema.columns"
        found: dict[str, dict[str, str]] = {}
        for layer, table, column, kind in self.connection.execute(sql).fetchall():
            found.setdefault(f"{layer}.{table}", {})[column] = kind
        wanted = {f"{t.layer}.{t.name}": {c.name: _TYPES[c.type].upper() for c in t.columns} for t in ALL}
        return {name: (found[name], columns) for name, columns in wanted.items() if name in found}
