"""Interface of the warehouse, the same for DuckDB and BigQuery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from warehouse.tables import Column, Table

# Layers with our tables, including those of an audit.
LAYERS = (
    "raw",
    "ops",
    *(f"{audit}{layer}" for layer in ("staging", "intermediate", "marts") for audit in ("", "audit_")),
)


@dataclass(frozen=True)
class UserTable:
    """A table (not a view) with a column `user_id`.

    `is_ours` is false for a table of the app's ingestion, whose rows only the app may delete. `bound` is SQL that is true for
    every row, for a warehouse that requires a filter on partitions.
    """

    layer: str
    name: str
    is_ours: bool = True
    bound: str = "true"

    @property
    def title(self) -> str:
        """Layer and name for people: `marts.crm_profiles`."""
        return f"{self.layer}.{self.name}"


class Reader(Protocol):
    """Read access. Times are returned as aware UTC."""

    def relation(self, layer: str, name: str) -> str:
        """Return the quoted, qualified name of a table for use in `query`."""

    def exists(self, layer: str, name: str) -> bool:
        """Return whether the table or view exists."""

    def query(self, sql: str, parameters: dict[str, Any] | None = None) -> pa.Table:
        """Return the result of a query with a small result. Parameters are written `$name`."""

    def stream(self, sql: str, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the result of a query in chunks of at most `chunk_rows` rows, so that memory stays bounded."""

    def hash_of(self, columns: Sequence[str]) -> str:
        """SQL for an integer hash of the columns, equal for equal rows of one warehouse."""

    def number_of(self, column: str) -> str:
        """SQL for an integer derived from a text column, as in dbt's macro stable_number: equal on every warehouse."""

    def user_hash(self, column: str) -> str:
        """SQL for the SHA-256 of a text column, 64 hex digits in lower case, as ops.erasures stores it."""

    def spelling_of(self, column: str) -> str:
        """SQL for an id without spelling variants: case, blanks, signs, a prefix, leading zeros, `.0`, an exponent.

        Used to find ids that were meant to be equal. Different ids may share a spelling.
        """

    def user_tables(self) -> list[UserTable]:
        """Every table with rows of users, in every layer including an audit's, from the warehouse's catalog."""

    def schema(self, sql: str) -> pa.Schema:
        """Return the columns of a query's result without running the query, at no cost."""


class Warehouse(Reader, Protocol):
    """Read and append access. Rows are never updated in place.

    `discard` removes only rows that no commit made visible. `delete_users` removes the rows of users to be erased.
    """

    # Buffer rows until there are this many, as long as it is safe to wait.
    rows_per_append: int
    # Whether the warehouse itself admits only one process at a time.
    is_exclusive: bool

    def prepare(self) -> None:
        """Create the missing schemas and tables of `warehouse.tables`."""

    def check(self) -> None:
        """Reject tables that this version cannot read. Creates nothing. Raises: ContractError."""

    def create(self, table: Table) -> None:
        """Create a table if it is missing."""

    def absent(self) -> list[Table]:
        """Missing tables of `warehouse.tables` that winback creates."""

    def lacking(self) -> list[tuple[Table, Column]]:
        """Columns of this version that are missing in winback's existing tables."""

    def add_column(self, table: Table, column: Column) -> None:
        """Add an optional column."""

    def change(self, sql: str) -> None:
        """Run a statement that alters a table or its rows. Only for migrations and for a change of CRM."""

    def append(self, table: Table, rows: pa.Table | Iterator[pa.RecordBatch]) -> int:
        """Append rows in one transaction and return their number. On any error no row is appended.

        Rows contain values that make them unique (a run, a time). Appending the same rows again may store them once.
        """

    def append_once(self, table: Table, row: dict[str, Any]) -> bool:
        """Append one row under the table's unique key. Returns False if a row with the key exists."""

    def discard(self, table: Table, **values: Any) -> None:
        """Remove the rows with these values, which a run staged and will not commit."""

    def delete_users(self, table: UserTable, whose: str, parameters: dict[str, Any]) -> int:
        """Delete the rows for which `whose`, SQL over user_id, is true, in one transaction. Returns their number, possibly 0."""

    def close(self) -> None:
        """Close the warehouse."""


def count(reader: Reader, source: str) -> int:
    """Return the number of rows of `select ... from source`. `source` may join and filter."""
    return int(reader.query(f"select count(*) as n from {source}").column("n")[0].as_py())
