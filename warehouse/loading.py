"""How raw data gets in from Parquet and CSV files: all of it, once, or nothing.

Every file is staged beside the tables and checked; only when all files hold are new rows stored, in one transaction.
A row is new when its key is not in the table yet, so loading a file again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from warehouse import checks
from warehouse.duckdb import DuckDBWarehouse
from warehouse.errors import ContractError, RetryableError
from warehouse.raw_files import OUT_OF_SPACE, RawFile, open_file, rows_of
from warehouse.tables import APP_EVENTS, RAW, USERS, Table


@dataclass(frozen=True)
class Loaded:
    """What became of a file's rows: `count_rows` = `count_new` + `count_already_there` + `count_repeated`.

    `count_repeated` are rows after the first of their key within the file. `count_differing` are rows not stored whose
    content differs from the row kept under their key: only events, which are redelivered, may have any. `count_late` are versions
    of profiles among the new rows that earlier runs would have taken in, had they come in time; the next run takes them in.
    """

    count_rows: int
    count_new: int
    count_already_there: int
    count_repeated: int
    count_differing: int
    ignored_columns: tuple[str, ...] = ()  # in the file, unknown to the table
    absent_columns: tuple[str, ...] = ()  # optional, not in the file: null in every row
    count_late: int = 0  # new versions of profiles that were written before the watermark


def load(
    warehouse: DuckDBWarehouse,
    files: Mapping[str, Path],
    *,
    now: datetime,
    watermark: datetime | None = None,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Loaded]:
    """Store the new rows of files named by the keys of `warehouse.tables.RAW`; no time may be after the aware `now`.

    New rows with a `loaded_at` before the aware `watermark` are refused: the runs that read that time are over, and none
    to come would see them.

    `advance` is told bytes done, in sum the files' sizes: half of each when it is checked, the rest when stored.
    An empty text is stored as null. Columns that the table does not have are ignored and reported.

    Raises: ContractError with the problems of all files, RetryableError when DuckDB itself fails; nothing is stored.
    """
    if now.tzinfo is None:
        raise ValueError("now must have a time zone")
    connection = warehouse.connection
    incoming = [RawFile(key, RAW[key], path) for key, path in files.items()]
    done = advance or (lambda _: None)
    try:
        warehouse.prepare()
        for file in incoming:
            if open_file(connection, file):
                _stage(connection, file, _naive(now), _naive(watermark) if watermark else None)
                done(file.size_bytes // 2)
        if problems := [problem for file in incoming for problem in file.problems]:
            raise ContractError(checks.message(problems))
        return _store(connection, incoming, done, _naive(watermark) if watermark else None)
    except duckdb.Error as error:
        kind = type(error).__name__  # not its message, nor the error chained: DuckDB's messages quote rows
        hint = "Are memory and disk large enough? Load again."
        raise RetryableError(f"Nothing was loaded: DuckDB failed ({kind}). {hint}") from None
    finally:
        with suppress(duckdb.Error):
            for file in incoming:
                for step in ("staged", "first", "there", "rejects", "scans"):
                    connection.execute(f"drop table if exists temp.{step}_{file.key}")


def _stage(connection: duckdb.DuckDBPyConnection, file: RawFile, now: datetime, watermark: datetime | None) -> None:
    """Copy the rows to a temporary table, with a bit for each check that a row breaks, and gather the breaches."""
    is_comparable = not file.problems
    rules = {column.name: checks.rule(column, is_text=file.is_text, now=now) for column in file.table.columns}
    raws = [f'({file.columns.get(name, "null")})::{rule.read_as} as "raw_{name}"' for name, rule in rules.items()]
    values = [f'{rule.value} as "{name}"' for name, rule in rules.items()]
    checked = file.columns.keys() - file.unusable
    found = [check for name in rules if name in checked for check in rules[name].checks]
    found += checks.across_columns(file.table, now)
    stored = _names(file.table)
    if file.table is USERS:
        stored = stored.replace('"loaded_at"', f"{_arrival(now, watermark)} as loaded_at")
    bits = " + ".join(f"case when {check.breach} then {1 << bit} else 0 end" for bit, check in enumerate(found))
    try:
        connection.execute(f"""
            create temp table staged_{file.key} as
            with raw as (select {", ".join(raws)} from {file.source}),
            read as (select *, {", ".join(values)} from raw)
            select {stored}, {bits or 0} as breaches from read
        """)
    except OUT_OF_SPACE:
        raise
    except duckdb.Error:
        file.refuse("cannot be read", "Is it whole, in UTF-8, with one kind of line end? Export it again.")
        return
    if file.is_text and _has_rejects(connection, file):
        return  # rejected rows are not staged: the row numbers of the others would be wrong
    for bit, check in enumerate(found):
        sql = f"select rowid + 1 as row from staged_{file.key} where breaches & {1 << bit} <> 0"
        file.refuse_rows(connection, sql, check.what, check.fix, check.column)
    if is_comparable:
        _compare(connection, file)
        if watermark and "loaded_at" in file.columns and file.table is not USERS:
            _refuse_unseen(connection, file, watermark)


def _arrival(now: datetime, watermark: datetime | None) -> str:
    """SQL of when a version of a profile arrived.

    It is what the file says. Where it says nothing, history arrived as it was written, and later rows arrive now: so do rows that
    say a time before the watermark, because no run saw them then.
    """
    if watermark is None:
        return "coalesce(loaded_at, updated_at)"
    return f"case when loaded_at >= timestamp '{watermark}' then loaded_at else timestamp '{now}' end"


def _has_rejects(connection: duckdb.DuckDBPyConnection, file: RawFile) -> bool:
    """Gather the rows that DuckDB could not split; it counts lines, blank ones too, but no line break within quotes."""
    rejects = f"rejects_{file.key}"
    kinds: dict[tuple[str, str], list[str]] = {}
    for (name,) in connection.execute(f"select distinct error_type::varchar from {rejects} order by 1").fetchall():
        kinds.setdefault(checks.rejected(name), []).append(f"'{name}'")
    for (what, fix), names in kinds.items():
        sql = f"select distinct line - 1 as row from {rejects} where error_type::varchar in ({', '.join(names)})"
        file.refuse_rows(connection, sql, what, fix)
    return bool(kinds)


def _compare(connection: duckdb.DuckDBPyConnection, file: RawFile) -> None:
    """Find each key's first row, the keys already stored, and the rows that contradict the one kept under their key."""
    # A version of a profile that allows less than another of the very same moment must not be lost: it is a version of its own.
    told_apart_by = ("marketing_consent", "erased_at") if file.table is USERS else ()
    key = ", ".join((*file.table.key, *told_apart_by))
    # Delivered again, a version arrives again: that is no contradiction.
    arrival = ("loaded_at",) if file.table is USERS else ()
    others = [c.name for c in file.table.columns if c.name not in (*file.table.key, *told_apart_by, *arrival)]

    def same(left: str, right: str) -> str:
        equal = [f"{left}.{name} = {right}.{name}" for name in file.table.key]
        return " and ".join([*equal, *(f"{left}.{name} is not distinct from {right}.{name}" for name in told_apart_by)])

    differs = " or ".join(f'new."{name}" is distinct from kept."{name}"' for name in others)
    stored, staged, first, there = _stored(file), f"staged_{file.key}", f"first_{file.key}", f"there_{file.key}"
    connection.execute(f"""
        create temp table {first} as
        select {key}, min(rowid) as first, count(*) as copies from {staged} where breaches = 0 group by {key};
        create temp table {there} as
        select distinct first from {first} as first inner join {stored} as kept on {same("first", "kept")}
    """)
    differing = f"""
        select new.rowid + 1 as row from {staged} as new inner join {stored} as kept on {same("new", "kept")}
        where breaches = 0 and ({differs})
        union
        select new.rowid + 1 from (select * from {first} where copies > 1) as first
        inner join {staged} as new on {same("new", "first")} inner join {staged} as kept on kept.rowid = first.first
        where new.breaches = 0 and ({differs})
    """
    if file.table is APP_EVENTS:
        file.count_differing, _ = rows_of(connection, differing)
        return
    what = "the same as in the warehouse or in a row above, but the other columns differ,"
    fix = (
        "A changed user needs a later updated_at." if file.key == "users" else "Give each redemption an id of its own."
    )
    file.refuse_rows(connection, differing, what, fix, ", ".join(file.table.key))


def _refuse_unseen(connection: duckdb.DuckDBPyConnection, file: RawFile, watermark: datetime) -> None:
    """Find new rows that no run would read any more."""
    sql = f"""
        select staged.rowid + 1 as row from staged_{file.key} as staged
        semi join first_{file.key} as first on staged.rowid = first.first
        anti join there_{file.key} as there on staged.rowid = there.first
        where staged.loaded_at < timestamp '{watermark}'
    """
    what = f"new, but before the watermark ({watermark:%Y-%m-%d %H:%M} UTC), and no run would read it:"
    file.refuse_rows(connection, sql, what, "Give the time at which the row is loaded now.", "loaded_at")


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def _store(
    connection: duckdb.DuckDBPyConnection,
    incoming: list[RawFile],
    done: Callable[[int], None],
    watermark: datetime | None,
) -> dict[str, Loaded]:
    """Insert the new rows of all files in one transaction and count what became of the others."""
    loaded = {}
    connection.begin()
    try:
        for file in incoming:
            steps = [f"{step}_{file.key}" for step in ("staged", "first", "there")]
            connection.execute(f"""
                insert into {_stored(file)} by name select {_names(file.table)} from {steps[0]} as staged
                semi join {steps[1]} as first on staged.rowid = first.first
                anti join {steps[2]} as there on staged.rowid = there.first
            """)
            rows, keys, there = (connection.execute(f"select count(*) from {step}").fetchall()[0][0] for step in steps)
            absent = tuple(
                column.name
                for column in file.table.columns
                if column.name not in file.columns and not column.may_be_absent
            )
            counts = (rows, keys - there, there, rows - keys, file.count_differing)
            late = _count_late(connection, file, watermark) if watermark and file.table is USERS else 0
            loaded[file.key] = Loaded(*counts, file.ignored, absent, late)
            done(file.size_bytes - file.size_bytes // 2)
        connection.commit()
    except BaseException:
        with suppress(duckdb.Error):
            connection.rollback()
        raise
    return loaded


def _count_late(connection: duckdb.DuckDBPyConnection, file: RawFile, watermark: datetime) -> int:
    """Count the new rows that were written before the watermark."""
    sql = f"""
        select count(*) from staged_{file.key} as staged
        semi join first_{file.key} as first on staged.rowid = first.first
        anti join there_{file.key} as there on staged.rowid = there.first
        where staged.updated_at < timestamp '{watermark}'
    """
    return int(connection.execute(sql).fetchall()[0][0])


def _stored(file: RawFile) -> str:
    return f'"{file.table.layer}"."{file.table.name}"'


def _names(table: Table) -> str:
    return ", ".join(f'"{column.name}"' for column in table.columns)
