"""Loader for raw data from Parquet and CSV files: it stores all rows once, or none.

Every file is staged in temporary tables and checked. Only if all files pass are new rows stored, in one transaction.
A row is new if its key is not in the table yet, so loading a file again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from core.clock import EARLIEST
from core.errors import ContractError, RetryableError
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading import staging as stages
from warehouse.loading.files import RawFile, open_file
from warehouse.loading.paths import labels
from warehouse.loading.problems import Problem, message
from warehouse.loading.set_aside import keeps_rows, refuse_unusable_target, write_set_aside
from warehouse.loading.staging import Staging, Times
from warehouse.tables import RAW, USERS


@dataclass(frozen=True)
class Loaded:
    """Counts for the rows of a table's files.

    `count_rows` = `count_new` + `count_already_there` + `count_repeated` + `count_set_aside`. `count_repeated` are rows after the
    first one with their key within the files. `count_differing` are rows not stored whose content differs from the stored row
    with their key; only redelivered events may differ. `count_late` are new versions of profiles that earlier runs would have
    included if they had arrived in time; the next run includes them.
    """

    count_rows: int
    count_new: int
    count_already_there: int
    count_repeated: int
    count_differing: int
    ignored_columns: tuple[str, ...] = ()  # in a file, but not in the table
    absent_columns: tuple[str, ...] = ()  # optional and in none of the files: null in every row
    count_late: int = 0  # new versions of profiles that were written before the watermark
    count_set_aside: int = 0
    empty_files: tuple[str, ...] = ()  # files without a row
    set_aside_because: tuple[str, ...] = ()  # file, column, reason and rows, one line each


def load(
    warehouse: DuckDBWarehouse,
    files: Mapping[str, Path | Sequence[Path]],
    *,
    now: datetime,
    watermark: datetime | None = None,
    earliest: datetime = EARLIEST,
    set_aside: Path | None = None,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Loaded]:
    """Store the new rows of files. `files` has the keys of `warehouse.tables.RAW`.

    No time may be before `earliest` or after `now`, which are aware. New rows with a `loaded_at` before the aware `watermark` are
    refused, because no later run would read them.

    With `set_aside`, refused rows are written there with their reasons, and the rest is stored. A file that cannot be read, or
    whose rows are all refused, still stops the whole load.

    `advance` is called with processed bytes, which sum up to the files' sizes: half of each file when checked, the rest when
    stored. An empty text is stored as null. Columns that the table does not have are ignored and reported.

    Raises: ContractError with the problems of all files, RetryableError if DuckDB itself fails; nothing is stored.
    """
    if now.tzinfo is None:
        raise ValueError("now must have a time zone")
    connection = warehouse.connection
    incoming = [_staging(key, paths) for key, paths in files.items()]
    done = advance or (lambda _: None)
    times = Times(_naive(now), _naive(earliest), _naive(watermark) if watermark else None)
    try:
        warehouse.prepare()
        if set_aside:
            refuse_unusable_target(set_aside)
        for each in incoming:
            _stage(connection, each, done, times)
        if problems := _problems(connection, incoming, may_set_aside=set_aside is not None):
            raise ContractError(message(problems))
        return _store(connection, incoming, done, set_aside=set_aside, watermark=times.watermark)
    except duckdb.Error as error:
        kind = type(error).__name__  # without its message and not chained, because DuckDB's messages quote rows
        hint = "Check that memory and disk are large enough, and load again."
        raise RetryableError(f"Nothing was loaded: DuckDB failed ({kind}). {hint}") from None
    finally:
        with suppress(duckdb.Error):
            for each in incoming:
                connection.execute(f"drop view if exists temp.staged_{each.key}")
                for step in each.steps:
                    connection.execute(f"drop table if exists temp.{step}")


def _staging(key: str, paths: Path | Sequence[Path]) -> Staging:
    listed = [paths] if isinstance(paths, Path) else list(paths)
    named = zip(listed, labels(listed), strict=True)
    files = [RawFile(key, RAW[key], path, label, number) for number, (path, label) in enumerate(named)]
    return Staging(key, RAW[key], files)


def _stage(connection: duckdb.DuckDBPyConnection, each: Staging, done: Callable[[int], None], times: Times) -> None:
    """Stage and check the files of a table."""
    is_comparable = True
    for file in each.files:
        is_readable = open_file(connection, file, (times.earliest, times.now))
        is_comparable = is_comparable and is_readable and not file.problems
        if is_readable:
            stages.stage(connection, each, file, times)
            done(file.size_bytes // 2)
    if is_comparable and not any(file.problems for file in each.files):
        stages.compare(connection, each, times.watermark)


def _problems(
    connection: duckdb.DuckDBPyConnection, incoming: Sequence[Staging], *, may_set_aside: bool
) -> list[Problem]:
    """Return the problems that stop the whole load."""
    problems: list[Problem] = []
    for each in incoming:
        for file in each.files:
            # If some rows could not be split, the numbers of the others are unreliable: report those rows first.
            whole = [problem for problem in file.row_problems if problem.column is None] or file.row_problems
            if not may_set_aside:
                problems += [*file.problems, *whole]
            elif file.problems or not file.row_problems or keeps_rows(connection, each, file):
                problems += file.problems
            else:
                problems += file.row_problems
    return problems


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def _store(
    connection: duckdb.DuckDBPyConnection,
    incoming: list[Staging],
    done: Callable[[int], None],
    *,
    set_aside: Path | None,
    watermark: datetime | None,
) -> dict[str, Loaded]:
    """Insert the new rows of all files in one transaction, and count all rows."""
    loaded = {}
    partial = None
    connection.begin()
    try:
        for each in incoming:
            staged, first, there, odd = (f"{step}_{each.key}" for step in ("staged", "first", "there", "odd"))
            connection.execute(f"""
                insert into {each.stored} by name select {each.names} from {staged} as staged
                semi join {first} as first on staged.id = first.first
                anti join {there} as there on staged.id = there.first
                anti join {odd} as odd on staged.id = odd.id
            """)
            loaded[each.key] = _counted(connection, each, watermark)
            done(sum(file.size_bytes - file.size_bytes // 2 for file in each.files))
        if set_aside:
            partial = write_set_aside(connection, incoming, set_aside)
        connection.commit()
    except BaseException:
        with suppress(duckdb.Error):
            connection.rollback()
        raise
    # After the commit, so that a load that stopped earlier can be repeated without an existing file.
    if set_aside and partial:
        partial.replace(set_aside)
    return loaded


def _counted(connection: duckdb.DuckDBPyConnection, each: Staging, watermark: datetime | None) -> Loaded:
    staged, first, there, odd = (f"{step}_{each.key}" for step in ("staged", "first", "there", "odd"))
    counts = connection.execute(f"""
        select
            (select count(*) from {staged}),
            (select count(*) from {staged} where breaches <> 0),
            (select count(*) from {first}),
            (select count(*) from {there}),
            (select count(*) from {odd}),
            (select count(*) from {odd} where is_unseen),
            (select count(*) from {odd} where not is_unseen and id in (select first from {there}))
    """).fetchall()[0]
    rows, broken, keys, known, refused, unseen, known_differing = counts
    rejected = sum(file.count_rejected for file in each.files)
    repeated_differing = refused - unseen - known_differing
    return Loaded(
        count_rows=rows + rejected,
        count_new=keys - known - unseen,
        count_already_there=known - known_differing,
        count_repeated=rows - broken - keys - repeated_differing,
        count_differing=each.count_differing,
        ignored_columns=tuple(dict.fromkeys(name for file in each.files for name in file.ignored)),
        absent_columns=tuple(
            column.name
            for column in each.table.columns
            if not column.may_be_absent and all(column.name not in file.columns for file in each.files)
        ),
        count_late=stages.count_late(connection, each, watermark) if watermark and each.table is USERS else 0,
        count_set_aside=broken + rejected + refused,
        empty_files=tuple(file.label for file in each.files if not file.count_rows + file.count_rejected),
        set_aside_because=tuple(str(problem) for file in each.files for problem in file.row_problems),
    )
