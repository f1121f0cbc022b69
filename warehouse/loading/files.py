"""Reader for Parquet and CSV files of raw rows: their columns, their rows and their problems."""

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

from warehouse.loading import checks
from warehouse.loading.file_kinds import GZIP, PARQUET, TEXT, UnusableFileError, check_kind
from warehouse.loading.gzip_files import CHUNK_BYTES, check_gzip
from warehouse.loading.paths import ENDINGS
from warehouse.loading.problems import Check, Problem
from warehouse.loading.time_checks import unit_of
from warehouse.tables import Table

MAX_ROWS_NAMED = 5
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
FILE_BITS = 40  # bits of a row's id: a trillion rows for each of eight million files
# DuckDB's errors when memory, or the disk it spills to, is full. Damaged Parquet (400 variants tested) raises others.
OUT_OF_SPACE = (duckdb.OutOfMemoryException, duckdb.IOException)


@dataclass
class RawFile:
    """A file during loading: how DuckDB reads it, the SQL name of each known column, and the problems found so far.

    `problems` are about the whole file, `row_problems` about rows that could be left out. `number` is unique within a table.
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
        """Add a problem of the file as a whole."""
        self.problems.append(Problem(self.label, what, fix))

    @property
    def staged(self) -> str:
        """The temporary table of the file's rows."""
        return f"staged_{self.key}_{self.number}"

    @property
    def rows(self) -> str:
        """SQL for the staged rows, each with an `id` that is unique among all files."""
        return f"(select *, rowid + {self.number << FILE_BITS} as id from {self.staged})"

    @property
    def row_number(self) -> str:
        """SQL for a staged row's number in its file; null if unknown because some rows could not be split."""
        return "null::bigint" if self.count_rejected else f"id - {(self.number << FILE_BITS) - 1}"


def open_file(connection: duckdb.DuckDBPyConnection, file: RawFile, span: tuple[datetime, datetime]) -> bool:
    """Find the file's columns and how to read it. Returns whether it can be read. Times must be within `span` (naive UTC)."""
    try:
        start = _start(file.path)
    except UnusableFileError as error:
        file.refuse(error.what, error.fix)
        return False
    file.size_bytes = file.path.stat().st_size
    is_parquet = file.path.name.lower().endswith(".parquet")
    names = _open_parquet(connection, file, span) if is_parquet else _open_csv(file, start)
    if names is None:
        return False
    # DuckDB treats Parquet columns whose names differ only in case as one, and renames all but the first.
    file.problems += checks.match_names(file.label, file.table, names, is_cased=not is_parquet)
    known = {column.name for column in file.table.columns}
    file.ignored = tuple(name or f"(column {place})" for place, name in enumerate(names, 1) if name not in known)
    return bool(file.columns)


def _start(path: Path) -> bytes:
    """Return the beginning of a file's contents, uncompressed.

    Raises: UnusableFileError if it cannot be read or is of another kind than its name implies.
    """
    name = path.name.lower()
    try:
        with path.open("rb") as stream:
            start = stream.read(CHUNK_BYTES)  # longer than any header
        if not name.endswith(ENDINGS):
            raise UnusableFileError("of an unknown kind", "Convert it to .parquet, .csv or .csv.gz.")
        if not start:
            raise UnusableFileError("empty (0 bytes)", "Export it again.")
        if name.endswith(".gz"):
            check_kind(start, GZIP)
            start = check_gzip(path)
    except FileNotFoundError:
        raise UnusableFileError("the file does not exist", "Check the path.") from None
    except OSError:
        raise UnusableFileError("cannot be read", "Check that it is a file, its disk and its permissions.") from None
    check_kind(start, PARQUET if name.endswith(".parquet") else TEXT)
    return start


def _open_parquet(
    connection: duckdb.DuckDBPyConnection, file: RawFile, span: tuple[datetime, datetime]
) -> list[str] | None:
    # Hive partitioning would add columns for folders with names such as dt=2026-01-31.
    file.source = f"read_parquet({_literal(file.path)}, hive_partitioning = false)"
    try:
        found = {row[0]: row[1] for row in connection.execute(f"describe select * from {file.source}").fetchall()}
        for column in file.table.columns:
            if column.name not in found:
                continue
            file.columns[column.name] = f'"{column.name}"'
            if problem := checks.wrong_type(file.label, column, found[column.name]):
                # A column without values may have any type, because writers guess one.
                file.columns[column.name] = "null"
                if connection.execute(f'select count("{column.name}") from {file.source}').fetchall() != [(0,)]:
                    file.unusable.add(column.name)
                    is_epochs = checks.may_be_epochs(column, found[column.name])
                    unit = _unit(connection, file, column.name, span) if is_epochs else None
                    told = f"The values look like {unit} since 1970. {problem.fix}" if unit else problem.fix
                    file.problems.append(Problem(file.label, problem.what, told, column.name))
        return _parquet_names(connection, file.path)
    except OUT_OF_SPACE:
        raise
    except duckdb.Error:
        file.refuse("not a complete Parquet file", "It is truncated, damaged or of another kind: export it again.")
        return None


def _unit(
    connection: duckdb.DuckDBPyConnection, file: RawFile, name: str, span: tuple[datetime, datetime]
) -> str | None:
    """Return the unit of the numbers in a column of times within `span`; None if there is none."""
    lowest, highest = connection.execute(
        f'select min("{name}")::double, max("{name}")::double from {file.source}'
    ).fetchall()[0]
    return unit_of(lowest, highest, span)


def _parquet_names(connection: duckdb.DuckDBPyConnection, path: Path) -> list[str]:
    """Return the columns' names as written in the file. DuckDB makes the names of a query over it unique."""
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


def _open_csv(file: RawFile, start: bytes) -> list[str] | None:
    # Accept two byte order marks, because programs add one to text that has one.
    text = codecs.getincrementaldecoder("utf-8")(errors="replace").decode(start).lstrip("\ufeff")
    known = {column.name for column in file.table.columns}
    names = _header(text, ",")
    if known.isdisjoint(names):
        for separator, words in _SEPARATORS.items():
            if not known.isdisjoint(_header(text, separator)):
                file.refuse(f"its columns are separated by {words}", "Export it with commas.")
                return None
    file.is_text = True
    is_gzip = file.path.name.lower().endswith(".gz")
    file.columns = {name: f"c{index}" for index, name in enumerate(names) if name in known}
    types = ", ".join(f"'c{index}': 'varchar'" for index in range(len(names)))
    file.source = f"""read_csv(
        {_literal(file.path)}, columns = {{{types}}}, auto_detect = false, header = true, delim = ',', quote = '"',
        escape = '"', nullstr = '', compression = '{"gzip" if is_gzip else "none"}', hive_partitioning = false,
        store_rejects = true, rejects_table = 'rejects_{file.key}', rejects_scan = 'scans_{file.key}'
    )"""
    return names


def _header(text: str, separator: str) -> list[str]:
    with suppress(csv.Error):
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), [])
    return []


def _literal(path: Path) -> str:
    """Quote a path for SQL. Wildcards are escaped, because DuckDB would expand them."""
    return "'" + glob.escape(str(path)).replace("'", "''") + "'"
