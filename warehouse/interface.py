"""Interface of the warehouse, the same for DuckDB and BigQuery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from warehouse.tables import Column, Table

# Where tables of ours lie, an audit's included.
LAYERS = (
    "raw",
    "ops",
    *(f"{audit}{layer}" for layer in ("staging", "intermediate", "marts") for audit in ("", "audit_")),
)


@dataclass(frozen=True)
class UserTable:
    """A table, no view, with a column `user_id`.

    `is_ours` is false of a table that the app's ingestion owns, whose rows only the app may delete. `bound` is SQL that is true
    of every row, for a warehouse that wants the partitions named.
    """

    layer: str
    name: str
    is_ours: bool = True
    bound: str = "true"

    @property
    def title(self) -> str:
        """Layer and name, as people say it: `marts.crm_profiles`."""
        return f"{self.layer}.{self.name}"


class Reader(Protocol):
    """Reads. Times come back as aware UTC."""

    def relation(self, layer: str, name: str) -> str:
        """Return the quoted, qualified name of a table for use in `query`."""

    def exists(self, layer: str, name: str) -> bool:
        """Say whether the table or view is there."""

    def query(self, sql: str, parameters: dict[str, Any] | None = None) -> pa.Table:
        """Answer a query whose result is small. Parameters are written `$name`."""

    def stream(self, sql: str, chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """Answer a query in chunks of at most `chunk_rows` rows, so that memory stays bounded."""

    def hash_of(self, columns: Sequence[str]) -> str:
        """SQL of a whole number that is a hash of the columns, equal for equal rows of one warehouse."""

    def number_of(self, column: str) -> str:
        """SQL of a whole number drawn from a text column, as dbt's macro stable_number draws it: equal on every warehouse."""

    def user_hash(self, column: str) -> str:
        """SQL of the SHA-256 of a text column, 64 hex digits in lower case, as ops.erasures keeps it of a user."""

    def spelling_of(self, column: str) -> str:
        """SQL of an id without what its spellings differ in: case, blanks, signs, a prefix, leading zeros, `.0`, an exponent.

        To find ids that were meant to be equal: different ids may have one spelling.
        """

    def user_tables(self) -> list[UserTable]:
        """Every table of every layer, an audit's included, in which users have rows, as the warehouse's own catalog says."""

    def schema(self, sql: str) -> pa.Schema:
        """Say which columns a query would answer with, without running it: it costs nothing, whatever it reads."""


class Warehouse(Reader, Protocol):
    """Reads and appends. Nothing is updated in place.

    `discard` removes only rows that no commit made visible, `delete_users` those of users who are to be erased.
    """

    # So many rows are worth an append of their own; whoever has fewer gathers them while it is safe to wait.
    rows_per_append: int
    # Whether the warehouse itself lets one process in at a time.
    is_exclusive: bool

    def prepare(self) -> None:
        """Create the schemas and tables of `warehouse.tables` where they are missing."""

    def create(self, table: Table) -> None:
        """Create a table where it is missing."""

    def absent(self) -> list[Table]:
        """Tables of `warehouse.tables` that are winback's to make and are not there."""

    def lacking(self) -> list[tuple[Table, Column]]:
        """Columns of this version that tables which are winback's, and are there, lack."""

    def add_column(self, table: Table, column: Column) -> None:
        """Add an optional column."""

    def change(self, sql: str) -> None:
        """Run a statement that alters a table or its rows. For migrations alone."""

    def append(self, table: Table, rows: pa.Table | Iterator[pa.RecordBatch]) -> int:
        """Append rows in one transaction and return how many: all of them or, on any error, none.

        Rows carry what makes them one of a kind (a run, a time): the same rows again may count once.
        """

    def append_once(self, table: Table, row: dict[str, Any]) -> bool:
        """Append one row under the table's unique key; False if another row has the key already."""

    def discard(self, table: Table, **values: Any) -> None:
        """Remove the rows that have these values: what a run staged and will not commit."""

    def delete_users(self, table: UserTable, whose: str, parameters: dict[str, Any]) -> int:
        """Delete the rows of which `whose`, SQL over user_id, is true, in one transaction; returns how many. None is no error."""

    def close(self) -> None:
        """Let go of the data."""


def count(reader: Reader, source: str) -> int:
    """How many rows `select ... from source` finds; `source` may join and filter."""
    return int(reader.query(f"select count(*) as n from {source}").column("n")[0].as_py())
