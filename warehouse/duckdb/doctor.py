"""Read-only access to a DuckDB file for `winback doctor`."""

from __future__ import annotations

from pathlib import Path

import duckdb

from core.errors import ContractError
from warehouse.duckdb.warehouse import TYPES, DuckDBWarehouse, connected
from warehouse.tables import ALL


class ReadOnlyDuckDB(DuckDBWarehouse):
    """A warehouse opened read-only. It changes neither the file nor the log that a killed run left next to it."""

    def __init__(self, path: Path) -> None:
        """Open the file for reading.

        Raises: RunInProgressError if another process holds it for writing, ContractError if it is missing or not a DuckDB file.
        """
        if not path.is_file():
            raise ContractError(f"The warehouse {path.name} does not exist in {path.parent.absolute()}/.")
        self.path = path
        self.connection = connected(path, is_read_only=True)

    @property
    def version(self) -> str:
        """The version of DuckDB that reads the file."""
        return duckdb.__version__

    def types(self) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
        """The columns (name -> type) of the existing tables, and those that this version expects, by `layer.name`."""
        sql = "select table_schema, table_name, column_name, data_type from information_schema.columns"
        found: dict[str, dict[str, str]] = {}
        for layer, table, column, kind in self.connection.execute(sql).fetchall():
            found.setdefault(f"{layer}.{table}", {})[column] = kind
        wanted = {t.title: {c.name: TYPES[c.type].upper() for c in t.columns} for t in ALL}
        return {name: (found[name], columns) for name, columns in wanted.items() if name in found}
