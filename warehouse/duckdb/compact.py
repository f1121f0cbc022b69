"""Rewrites a DuckDB file, so that no byte of a deleted row is left in it.

DuckDB keeps the bytes of deleted rows in free blocks and in row groups. `export database` and `import database` fail, because
they may create a view before another view that it reads.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import duckdb

from core.errors import ContractError
from warehouse.duckdb.warehouse import connected

# winback creates none of these. A file that contains one is refused instead of copied in part.
_OTHER_KINDS = {
    "macros": "select function_name from duckdb_functions() where database_name = 'old' and not internal",
    "types": "select type_name from duckdb_types() where database_name = 'old' and not internal",
    "sequences": "select sequence_name from duckdb_sequences() where database_name = 'old'",
    "indexes": "select index_name from duckdb_indexes() where database_name = 'old'",
}


@dataclass(frozen=True)
class Compacted:
    """Result of a rewrite: sizes in bytes, and the numbers of tables and rows."""

    file: Path
    bytes_before: int
    bytes_after: int
    count_tables: int
    count_rows: int


def compact(path: Path, *, memory_limit: str | None = None) -> Compacted:
    """Write a new file next to the old one, compare, and replace the old one in one step.

    If the process is killed, either the old or the new file is complete. No other process can write meanwhile. Needs free disk
    space for a second file of the same size.

    Raises: RunInProgressError if another process holds the file. ContractError if it is missing, is not a DuckDB file, or
    contains objects that cannot be copied.
    """
    if not path.is_file():
        raise ContractError(f"{path.name} does not exist. Set WINBACK_WAREHOUSE to the warehouse's file.")
    # Apply the write-ahead log of a killed process to the file, and empty the log.
    with connected(path, is_read_only=False) as holder:
        holder.execute("checkpoint")
    bytes_before = path.stat().st_size
    folder = path.with_name(f".{path.stem}-compacting")
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process
    folder.mkdir()
    # Keep the file's name, because views contain it as the name of the database.
    new_file = folder / path.name
    try:
        with duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            if memory_limit:
                connection.execute("set memory_limit = $limit", {"limit": memory_limit})
            connection.execute(f"attach '{_text(path)}' as old (read_only)")
            connection.execute(f"attach '{_text(new_file)}' as \"{path.stem}\"")
            connection.execute(f'use "{path.stem}"')
            _refuse_other_kinds(connection, path)
            counts = _copy_tables(connection)
            _copy_views(connection)
            connection.execute("use memory")
            connection.execute(f'detach "{path.stem}"')  # writes everything into the file
            bytes_after = new_file.stat().st_size
            _to_disk(new_file)
            # `old` is still attached, so no other process can have written to it since the copy.
            os.replace(new_file, path)
            _to_disk(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Compacted(path, bytes_before, bytes_after, len(counts), sum(counts))


def _refuse_other_kinds(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    found = {kind: len(connection.execute(sql).fetchall()) for kind, sql in _OTHER_KINDS.items()}
    if present := [f"{count} {kind}" for kind, count in found.items() if count]:
        raise ContractError(
            f"{path.name} contains {', '.join(present)}, which winback did not create and cannot copy. Drop them and run again."
        )


def _copy_tables(connection: duckdb.DuckDBPyConnection) -> list[int]:
    """Copy every schema and table with its constraints. Returns the number of rows of each table."""
    schemas = "select schema_name from duckdb_schemas() where database_name = 'old' and not internal"
    for (schema,) in connection.execute(schemas).fetchall():
        connection.execute(f'create schema if not exists "{schema}"')
    tables = connection.execute(
        "select schema_name, table_name, sql from duckdb_tables() where database_name = 'old' and not internal order by all"
    ).fetchall()
    counts = []
    for schema, name, sql in tables:
        title = f'"{schema}"."{name}"'
        connection.execute(sql)  # names only the schema, so it applies to the database in use
        copied = connection.execute(f"insert into {title} select * from old.{title}").fetchall()
        counts.append(int(copied[0][0]))
    return counts


def _copy_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the views, each after the views and tables that it reads."""
    sql = "select sql from duckdb_views() where database_name = 'old' and not internal order by view_oid"
    waiting = [text for (text,) in connection.execute(sql).fetchall()]
    while waiting:
        left = []
        for text in waiting:
            try:
                connection.execute(text)
            except duckdb.CatalogException as error:
                left.append(text)
                problem = error
        if len(left) == len(waiting):
            raise ContractError(f"A view cannot be copied, because it reads a missing table or view: {problem}")
        waiting = left


def _to_disk(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(path: Path) -> str:
    return str(path).replace("'", "''")
