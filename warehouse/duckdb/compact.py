"""Writes a DuckDB file anew, so that no byte of a deleted row is left in it.

DuckDB keeps the bytes of deleted rows, in free blocks and in row groups. `export database` and `import database` cannot do it:
they create views in an order in which one needs another that is not there yet.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import duckdb

from core.errors import ContractError
from warehouse.duckdb.warehouse import connected

# Nothing of winback makes these. A file that holds one is not copied by halves.
_OTHER_KINDS = {
    "macros": "select function_name from duckdb_functions() where database_name = 'old' and not internal",
    "types": "select type_name from duckdb_types() where database_name = 'old' and not internal",
    "sequences": "select sequence_name from duckdb_sequences() where database_name = 'old'",
    "indexes": "select index_name from duckdb_indexes() where database_name = 'old'",
}


@dataclass(frozen=True)
class Compacted:
    """What was written anew: sizes in bytes, the number of tables and of their rows."""

    file: Path
    bytes_before: int
    bytes_after: int
    count_tables: int
    count_rows: int


def compact(path: Path, *, memory_limit: str | None = None) -> Compacted:
    """Write the file anew beside itself, compare, and put the new one in its place in one step.

    Killed at any moment, the old file is whole or the new one is. No other process can write meanwhile. Needs free disk space for
    a second file of the size.

    Raises: RunInProgressError when another process holds the file, ContractError when it is missing, is no DuckDB file, or holds
    what this cannot copy.
    """
    if not path.is_file():
        raise ContractError(f"{path.name} does not exist. WINBACK_WAREHOUSE says where the warehouse is.")
    # To the file's own log first: what a killed process left in it comes into the file, and the log is emptied.
    with connected(path, is_read_only=False) as holder:
        holder.execute("checkpoint")
    bytes_before = path.stat().st_size
    folder = path.with_name(f".{path.stem}-compacting")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    folder.mkdir()
    # The same name: views name the database after the file they were made in.
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
            connection.execute(f'detach "{path.stem}"')  # writes all of it into the file
            bytes_after = new_file.stat().st_size
            _to_disk(new_file)
            # `old` is still attached, so that nobody can have written to it since it was copied.
            os.replace(new_file, path)
            _to_disk(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Compacted(path, bytes_before, bytes_after, len(counts), sum(counts))


def _refuse_other_kinds(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    found = {kind: len(connection.execute(sql).fetchall()) for kind, sql in _OTHER_KINDS.items()}
    if present := [f"{count} {kind}" for kind, count in found.items() if count]:
        raise ContractError(
            f"{path.name} holds {', '.join(present)}, which winback did not make and cannot copy. Drop them, and run again."
        )


def _copy_tables(connection: duckdb.DuckDBPyConnection) -> list[int]:
    """Copy every schema and table with its constraints; returns the number of rows of each."""
    schemas = "select schema_name from duckdb_schemas() where database_name = 'old' and not internal"
    for (schema,) in connection.execute(schemas).fetchall():
        connection.execute(f'create schema if not exists "{schema}"')
    tables = connection.execute(
        "select schema_name, table_name, sql from duckdb_tables() where database_name = 'old' and not internal order by all"
    ).fetchall()
    counts = []
    for schema, name, sql in tables:
        title = f'"{schema}"."{name}"'
        connection.execute(sql)  # it names the schema and no database: the one in use
        copied = connection.execute(f"insert into {title} select * from old.{title}").fetchall()
        counts.append(int(copied[0][0]))
    return counts


def _copy_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the views, each once what it reads is there."""
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
            raise ContractError(f"A view cannot be copied, because it reads what is not there: {problem}")
        waiting = left


def _to_disk(path: Path) -> None:
    """Have the operating system write a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(path: Path) -> str:
    return str(path).replace("'", "''")
