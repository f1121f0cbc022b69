"""Staging of raw files in temporary tables: every row is checked and compared with earlier rows and stored rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import duckdb

from warehouse.loading import checks
from warehouse.loading.files import MAX_ROWS_NAMED, OUT_OF_SPACE, RawFile
from warehouse.loading.problems import Check, Problem
from warehouse.tables import APP_EVENTS, USERS, Table


@dataclass
class Staging:
    """The files of one table, and the temporary tables that hold their rows while they are checked.

    Each file has its own table, in the order of its rows: the target's columns, `breaches` with a bit for each failed check (a
    bigint: at most 62), and in `raw` the texts of a row with a failed check. `staged` is the view over all of them, with an `id`
    for each row. `rejected` holds the lines that could not be split, `first` the first row of each key. `there` holds the first
    rows whose key is stored, `odd` the rows that `compare` refuses.
    """

    key: str
    table: Table
    files: list[RawFile]
    count_differing: int = 0

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the temporary tables."""
        own = (f"{step}_{self.key}" for step in ("rejected", "first", "there", "odd", "rejects", "scans"))
        return (*own, *(file.staged for file in self.files))

    @property
    def stored(self) -> str:
        """The raw table."""
        return f'"{self.table.layer}"."{self.table.name}"'

    @property
    def names(self) -> str:
        """The table's columns."""
        return ", ".join(f'"{column.name}"' for column in self.table.columns)


@dataclass(frozen=True)
class Times:
    """Bounds for times, all naive UTC: the current time, the earliest valid time, and the start of the next run window."""

    now: datetime
    earliest: datetime
    watermark: datetime | None


def stage(connection: duckdb.DuckDBPyConnection, staging: Staging, file: RawFile, times: Times) -> None:
    """Copy a file's rows to its temporary table and collect their problems."""
    now, earliest = times.now, times.earliest
    stored = staging.names
    if file.table is USERS:
        stored = stored.replace('"loaded_at"', f"{_arrival(times)} as loaded_at")
    rules = {
        column.name: checks.rule(column, is_text=file.is_text, now=now, earliest=earliest)
        for column in file.table.columns
    }
    raws = [f'({file.columns.get(name, "null")})::{rule.read_as} as "raw_{name}"' for name, rule in rules.items()]
    values = [f'{rule.value} as "{name}"' for name, rule in rules.items()]
    usable = file.columns.keys() - file.unusable
    file.checks = [check for name in rules if name in usable for check in rules[name].checks]
    file.checks += checks.across_columns(file.table, now, earliest)
    bits = [f"case when {check.breach} then {1 << bit} else 0 end" for bit, check in enumerate(file.checks)]
    texts = ", ".join(f'"{name}" := "raw_{name}"::varchar' for name in rules)
    try:
        connection.execute(f"""
            create temp table {file.staged} as
            with raw as (select {", ".join(raws)} from {file.source}),
            read as (select *, {", ".join(values)} from raw),
            checked as (select *, {" + ".join(bits) or 0} as breaches from read)
            select {stored}, breaches, case when breaches <> 0 then struct_pack({texts}) end as raw from checked
        """)
    except OUT_OF_SPACE:
        raise
    except duckdb.Error:
        fix = "It may be incomplete, not UTF-8, or have mixed line ends." if file.is_text else "Its rows are damaged."
        file.refuse("cannot be read", f"{fix} Export it again.")
        return
    sql = f"select count(*), bit_or(breaches) from {file.staged}"
    file.count_rows, breaches = connection.execute(sql).fetchall()[0]
    if file.is_text:
        _gather_rejected(connection, staging, file)
    for bit, check in enumerate(file.checks):
        if (breaches or 0) & 1 << bit:
            _gather(connection, file, check, f"breaches & {1 << bit} <> 0")


def _arrival(times: Times) -> str:
    """SQL for the arrival time of a profile's version.

    Before the first run it is the file's value, else the time of writing. Later it is the file's value if that is not before the
    watermark. Otherwise it is now, because no run has seen the row.
    """
    if times.watermark is None:
        return "coalesce(loaded_at, updated_at)"
    return f"case when loaded_at >= timestamp '{times.watermark}' then loaded_at else timestamp '{times.now}' end"


def _gather(connection: duckdb.DuckDBPyConnection, file: RawFile, check: Check, where: str) -> None:
    """Add a problem for the file's rows that fail a check, with the matching messages."""
    found = connection.execute(f"""
        select {check.words_index} as place, count(*), min({file.row_number}, {MAX_ROWS_NAMED})
        from {file.rows} where {where} group by place order by place
    """).fetchall()
    for place, count, rows in found:
        what, fix = check.words[place]
        file.row_problems.append(Problem(file.label, what, fix, check.column, rows or [], count))


def _gather_rejected(connection: duckdb.DuckDBPyConnection, staging: Staging, file: RawFile) -> None:
    """Collect the rows that DuckDB could not split. It counts lines, including blank ones, but not line breaks within quotes."""
    rejects, rejected = f"rejects_{file.key}", f"rejected_{staging.key}"
    connection.execute(
        f"create temp table if not exists {rejected} (file integer, row bigint, what varchar, line varchar)"
    )
    kinds = connection.execute(f"select distinct error_type::varchar from {rejects} order by 1").fetchall()
    gathered: dict[checks.Rejection, list[str]] = {}
    for (kind,) in kinds:
        gathered.setdefault(checks.rejected(kind), []).append(f"'{kind}'")
    for rejection, names in gathered.items():
        where = f"error_type::varchar in ({', '.join(names)})"
        sql = f"select count(*), min(row, {MAX_ROWS_NAMED}) from (select distinct line - 1 as row from {rejects} where {where})"
        count, rows = connection.execute(sql).fetchall()[0]
        problems = file.row_problems if rejection.is_one_row else file.problems
        problems.append(Problem(file.label, rejection.what, rejection.fix, None, rows, count))
        connection.execute(
            f"""insert into {rejected}
            select {file.number}, line - 1, $what, any_value(csv_line) from {rejects} where {where} group by line""",
            {"what": f"{rejection.what}. {rejection.fix}"},
        )
    sql = f"select count(distinct row) from {rejected} where file = {file.number}"
    file.count_rejected = connection.execute(sql).fetchall()[0][0]
    connection.execute(f"drop table {rejects}; drop table scans_{file.key}")


def compare(connection: duckdb.DuckDBPyConnection, staging: Staging, watermark: datetime | None) -> None:
    """Find each key's first row, the stored keys, and the rows that must not be stored.

    These are rows that contradict the row with their key, and new rows before the watermark, which no run would read any more.
    """
    # Two versions of a profile with the same time but different consent are separate versions, so that none is lost.
    told_apart_by = ("marketing_consent", "erased_at") if staging.table is USERS else ()
    key = ", ".join((*staging.table.key, *told_apart_by))
    # A redelivered version has another arrival time, which is not a contradiction.
    arrival = ("loaded_at",) if staging.table is USERS else ()
    others = [c.name for c in staging.table.columns if c.name not in (*staging.table.key, *told_apart_by, *arrival)]

    def same(left: str, right: str) -> str:
        equal = [f"{left}.{name} = {right}.{name}" for name in staging.table.key]
        return " and ".join([*equal, *(f"{left}.{name} is not distinct from {right}.{name}" for name in told_apart_by)])

    differs = " or ".join(f'new."{name}" is distinct from kept."{name}"' for name in others) or "false"
    staged, first, there, odd = (f"{step}_{staging.key}" for step in ("staged", "first", "there", "odd"))
    connection.execute(f"""
        create temp view {staged} as {" union all ".join(f"from {file.rows}" for file in staging.files)};
        create temp table {first} as
        select {key}, min(id) as first, count(*) as copies from {staged} where breaches = 0 group by {key};
        create temp table {there} as
        select distinct first from {first} as first inner join {staging.stored} as kept on {same("first", "kept")};
        create temp table {odd} (id bigint, is_unseen boolean)
    """)
    differing = f"""
        select new.id from {staged} as new inner join {staging.stored} as kept on {same("new", "kept")}
        where breaches = 0 and ({differs})
        union
        select new.id from (select * from {first} where copies > 1) as first
        inner join {staged} as new on {same("new", "first")} inner join {staged} as kept on kept.id = first.first
        where new.breaches = 0 and ({differs})
    """
    if staging.table is APP_EVENTS:
        staging.count_differing = connection.execute(f"select count(*) from ({differing})").fetchall()[0][0]
    else:
        connection.execute(f"insert into {odd} select id, false from ({differing})")
        is_user = staging.key == "users"
        fix = "A changed user needs a later updated_at." if is_user else "Give each redemption its own id."
        what = "the same as in the warehouse or in an earlier row, but the other columns differ,"
        _refuse_odd(connection, staging, Check(", ".join(staging.table.key), "not is_unseen", what, fix))
    if watermark and staging.table is not USERS:
        connection.execute(f"""
            insert into {odd} select staged.id, true from {staged} as staged
            semi join {first} as first on staged.id = first.first
            anti join {there} as there on staged.id = there.first
            where staged.loaded_at < timestamp '{watermark}'
        """)
        what = f"new, but before the watermark ({watermark:%Y-%m-%d %H:%M} UTC), where no run would read it,"
        fix = "Use the current time of loading."
        _refuse_odd(connection, staging, Check("loaded_at", "is_unseen", what, fix))


def _refuse_odd(connection: duckdb.DuckDBPyConnection, staging: Staging, check: Check) -> None:
    """Add problems for the refused rows of one kind, file by file."""
    odd = f"odd_{staging.key}"
    if connection.execute(f"select count(*) from {odd} where {check.breach}").fetchall() == [(0,)]:
        return
    for file in staging.files:
        _gather(connection, file, check, f"id in (select id from {odd} where {check.breach})")


def count_late(connection: duckdb.DuckDBPyConnection, staging: Staging, watermark: datetime) -> int:
    """Count the new rows that were written before the watermark."""
    sql = f"""
        select count(*) from staged_{staging.key} as staged
        semi join first_{staging.key} as first on staged.id = first.first
        anti join there_{staging.key} as there on staged.id = there.first
        anti join odd_{staging.key} as odd on staged.id = odd.id
        where staged.updated_at < timestamp '{watermark}'
    """
    return int(connection.execute(sql).fetchall()[0][0])
