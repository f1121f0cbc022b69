"""How is a Parquet or CSV file of raw rows read: its columns, its rows, and what is wrong with it?"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import io
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from warehouse import checks
from warehouse.checks import Problem
from warehouse.tables import Table

MAX_ROWS_NAMED = 5
CHUNK_BYTES = 1 << 20  # a header longer than this is none
# What DuckDB raises when memory, or the disk it spills to, is full. Damaged Parquet (400 ways tried) raises others.
OUT_OF_SPACE = (duckdb.OutOfMemoryException, duckdb.IOException)


@dataclass
class RawFile:
    """A file on its way in: how DuckDB reads it, the SQL name of each known column, and what is wrong so far."""

    key: str
    table: Table
    path: Path
    size_bytes: int = 0
    source: str = ""
    is_text: bool = False
    columns: dict[str, str] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)
    ignored: tuple[str, ...] = ()
    count_differing: int = 0
    problems: list[Problem] = field(default_factory=list)

    def refuse(self, what: str, fix: str) -> None:
        """Note what is wrong with the file as a whole."""
        self.problems.append(Problem(self.path.name, what, fix))

    def refuse_rows(
        self, connection: duckdb.DuckDBPyConnection, sql: str, what: str, fix: str, column: str | None = None
    ) -> None:
        """Note what is wrong with the rows that a query over `row` finds, if it finds any."""
        count, rows = rows_of(connection, sql)
        if count:
            self.problems.append(Problem(self.path.name, what, fix, column, rows, count))


def open_file(connection: duckdb.DuckDBPyConnection, file: RawFile) -> bool:
    """Find how the file is read and its columns; say whether it can be read at all."""
    name = file.path.name.lower()
    try:
        with file.path.open("rb") as stream:
            file.size_bytes = stream.seek(0, io.SEEK_END)
    except FileNotFoundError:
        file.refuse("there is no such file", "Check the path.")
        return False
    except OSError:
        file.refuse("cannot be opened", "Is it a file, and may you read it?")
        return False
    if not name.endswith((".parquet", ".csv", ".csv.gz")):
        file.refuse("of an unknown kind", "Convert it to .parquet, .csv or .csv.gz.")
        return False
    if not file.size_bytes:
        file.refuse("empty (0 bytes)", "Export it again.")
        return False
    is_parquet = name.endswith(".parquet")
    names = _open_parquet(connection, file) if is_parquet else _open_csv(file, is_gzip=name.endswith(".gz"))
    if names is None:
        return False
    file.problems += checks.match_names(file.path.name, file.table, names)
    known = {column.name for column in file.table.columns}
    file.ignored = tuple(name or f"(column {place})" for place, name in enumerate(names, 1) if name not in known)
    return bool(file.columns)


def _open_parquet(connection: duckdb.DuckDBPyConnection, file: RawFile) -> list[str] | None:
    # Hive partitioning would add columns for folders named like dt=2026-01-31.
    file.source = f"read_parquet({_literal(file.path)}, hive_partitioning = false)"
    try:
        found = {row[0]: row[1] for row in connection.execute(f"describe select * from {file.source}").fetchall()}
        for column in file.table.columns:
            if column.name not in found:
                continue
            file.columns[column.name] = f'"{column.name}"'
            if problem := checks.wrong_type(file.path.name, column, found[column.name]):
                # A column without any value may have any type: writers guess one.
                file.columns[column.name] = "null"
                if connection.execute(f'select count("{column.name}") from {file.source}').fetchall() != [(0,)]:
                    file.unusable.add(column.name)
                    file.problems.append(problem)
    except OUT_OF_SPACE:
        raise
    except duckdb.Error:
        file.refuse("not a whole Parquet file", "It is truncated, damaged or of another kind: export it again.")
        return None
    return list(found)


def _open_csv(file: RawFile, *, is_gzip: bool) -> list[str] | None:
    try:
        with gzip.open(file.path) if is_gzip else file.path.open("rb") as stream:
            start = stream.read(CHUNK_BYTES)
            while is_gzip and stream.read(CHUNK_BYTES):
                pass  # to the end: DuckDB takes a truncated gzip file for a short one
    except (OSError, EOFError, zlib.error):
        file.refuse("not a whole gzip file", "It is truncated, damaged or of another kind: export it again.")
        return None
    text = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode(start)
    names: list[str] = []
    with suppress(csv.Error):
        names = next(csv.reader(io.StringIO(text, newline=""), strict=True), [])
    file.is_text = True
    known = {column.name for column in file.table.columns}
    file.columns = {name: f"c{index}" for index, name in enumerate(names) if name in known}
    types = ", ".join(f"'c{index}': 'varchar'" for index in range(len(names)))
    file.source = f"""read_csv(
        {_literal(file.path)}, columns = {{{types}}}, auto_detect = false, header = true, delim = ',', quote = '"',
        escape = '"', nullstr = '', compression = '{"gzip" if is_gzip else "none"}', hive_partitioning = false,
        store_rejects = true, rejects_table = 'rejects_{file.key}', rejects_scan = 'scans_{file.key}'
    )"""
    return names


def rows_of(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[int, list[int]]:
    """Return how many rows a query over `row` finds, and the first of them."""
    count, rows = connection.execute(f"select count(*), min(row, {MAX_ROWS_NAMED}) from ({sql})").fetchall()[0]
    return count, rows or []


def _literal(path: Path) -> str:
    """Quote a path for SQL; DuckDB would expand a `*` in it."""
    return "'" + glob.escape(str(path)).replace("'", "''") + "'"
