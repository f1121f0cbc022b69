"""Reading of Parquet and CSV files of raw rows: their columns, their rows, and what is wrong with them."""

from __future__ import annotations

import codecs
import csv
import glob
import io
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb

from warehouse import checks
from warehouse.gzip_files import CHUNK_BYTES, BrokenGzipError, check_gzip
from warehouse.problems import Check, Problem
from warehouse.raw_paths import ENDINGS
from warehouse.tables import Table
from warehouse.time_checks import unit_of

MAX_ROWS_NAMED = 5
FILE_BITS = 40  # of a row's id: a trillion rows for each of eight million files
# What DuckDB raises when memory, or the disk it spills to, is full. Damaged Parquet (400 ways tried) raises others.
OUT_OF_SPACE = (duckdb.OutOfMemoryException, duckdb.IOException)


@dataclass
class RawFile:
    """A file on its way in: how DuckDB reads it, the SQL name of each known column, and what is wrong so far.

    `problems` concern the whole file, `row_problems` rows that could be left out. `number` tells the files of a table apart.
    """

    key: str
    table: Table
    path: Path
    label: str = ""
    number: int = 0
    size_bytes: int = 0
    source: str = ""
    is_text: bool = False
    columns: dict[str, str] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)
    ignored: tuple[str, ...] = ()
    checks: list[Check] = field(default_factory=list)
    count_rows: int = 0
    count_rejected: int = 0
    problems: list[Problem] = field(default_factory=list)
    row_problems: list[Problem] = field(default_factory=list)

    def refuse(self, what: str, fix: str) -> None:
        """Note what is wrong with the file as a whole."""
        self.problems.append(Problem(self.label, what, fix))

    @property
    def staged(self) -> str:
        """The temporary table of the file's rows."""
        return f"staged_{self.key}_{self.number}"

    @property
    def rows(self) -> str:
        """SQL of the staged rows, each with an `id` of its own among all files."""
        return f"(select *, rowid + {self.number << FILE_BITS} as id from {self.staged})"

    @property
    def row_number(self) -> str:
        """SQL of a staged row's place in its file; null where rows that could not be split make it unknown."""
        return "null::bigint" if self.count_rejected else f"id - {(self.number << FILE_BITS) - 1}"


def open_file(connection: duckdb.DuckDBPyConnection, file: RawFile, span: tuple[datetime, datetime]) -> bool:
    """Find how the file is read and its columns; say whether it can be read at all. Times lie between `span` (naive UTC)."""
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
    if not name.endswith(ENDINGS):
        file.refuse("of an unknown kind", "Convert it to .parquet, .csv or .csv.gz.")
        return False
    if not file.size_bytes:
        file.refuse("empty (0 bytes)", "Export it again.")
        return False
    is_parquet = name.endswith(".parquet")
    names = _open_parquet(connection, file, span) if is_parquet else _open_csv(file, name.endswith(".gz"))
    if names is None:
        return False
    # DuckDB takes Parquet columns whose names differ in capitals alone for one, and renames all but the first.
    file.problems += checks.match_names(file.label, file.table, names, is_cased=not is_parquet)
    known = {column.name for column in file.table.columns}
    file.ignored = tuple(name or f"(column {place})" for place, name in enumerate(names, 1) if name not in known)
    return bool(file.columns)


def _open_parquet(
    connection: duckdb.DuckDBPyConnection, file: RawFile, span: tuple[datetime, datetime]
) -> list[str] | None:
    # Hive partitioning would add columns for folders named like dt=2026-01-31.
    file.source = f"read_parquet({_literal(file.path)}, hive_partitioning = false)"
    try:
        found = {row[0]: row[1] for row in connection.execute(f"describe select * from {file.source}").fetchall()}
        for column in file.table.columns:
            if column.name not in found:
                continue
            file.columns[column.name] = f'"{column.name}"'
            if problem := checks.wrong_type(file.label, column, found[column.name]):
                # A column without any value may have any type: writers guess one.
                file.columns[column.name] = "null"
                if connection.execute(f'select count("{column.name}") from {file.source}').fetchall() != [(0,)]:
                    file.unusable.add(column.name)
                    is_epochs = checks.may_be_epochs(column, found[column.name])
                    unit = _unit(connection, file, column.name, span) if is_epochs else None
                    told = f"By its size it holds {unit} since 1970. {problem.fix}" if unit else problem.fix
                    file.problems.append(Problem(file.label, problem.what, told, column.name))
        return _parquet_names(connection, file.path)
    except OUT_OF_SPACE:
        raise
    except duckdb.Error:
        file.refuse("not a whole Parquet file", "It is truncated, damaged or of another kind: export it again.")
        return None


def _unit(
    connection: duckdb.DuckDBPyConnection, file: RawFile, name: str, span: tuple[datetime, datetime]
) -> str | None:
    """Return the unit of numbers that stand in a column of times between `span`."""
    lowest, highest = connection.execute(
        f'select min("{name}")::double, max("{name}")::double from {file.source}'
    ).fetchall()[0]
    return unit_of(lowest, highest, span)


def _parquet_names(connection: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """Return the columns' names as they stand in the file; those of a query over it are made unique."""
    rows = connection.execute(f"select name, num_children from parquet_schema({_literal(path)})").fetchall()
    names, open_children = [], [1]
    for name, count_children in rows:
        while open_children[-1] == 0:
            open_children.pop()
        open_children[-1] -= 1
        if len(open_children) == 2:
            names.append(name)
        if count_children:
            open_children.append(count_children)
    return names


def _open_csv(file: RawFile, is_gzip: bool) -> list[str] | None:
    try:
        if is_gzip:
            start = check_gzip(file.path)
        else:
            with file.path.open("rb") as stream:
                start = stream.read(CHUNK_BYTES)  # a header longer than this is none
    except BrokenGzipError as error:
        file.refuse(error.what, error.fix)
        return None
    except OSError:
        file.refuse("cannot be read", "Is its disk whole? Copy it again.")
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


def _literal(path: Path) -> str:
    """Quote a path for SQL; DuckDB would expand a `*` in it."""
    return "'" + glob.escape(str(path)).replace("'", "''") + "'"
