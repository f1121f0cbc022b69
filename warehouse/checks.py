"""What must hold of a raw file before its rows are stored, and how a breach is told to a person.

A rule is SQL over a staged row: the value that is stored, and checks that are true where the row is wrong.
A breach is told by file, column, rows and fix; a value never leaves this room.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from warehouse.tables import APP_EVENTS, TIMESTAMP, Column, Table

MAX_LINES = 20  # a screenful
SIMILAR = 0.75  # of 1, by difflib: occured_at is like occurred_at, created_on is not like updated_at

# DuckDB's cast of text to a timestamp drops an offset silently, and its cast to one with zone reads a missing offset
# as UTC: so the form of the text is asked first.
_DATE, _TIME = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d:\d\d(\.\d{1,9})?"
_ZONED = rf"{_DATE}[T ]{_TIME}(Z|[+-](0\d|1[0-4])(:?[0-5]\d)?)"
_UNZONED = rf"{_DATE}([T ]({_TIME}|\d\d:\d\d))?"
# Python's years; outside lie DuckDB's infinities too, which no reader of the tables could hold.
_FIRST, _LAST = "timestamptz '0001-01-02 00:00:00Z'", "timestamptz '9999-12-30 00:00:00Z'"
_CLOCK_AHEAD = "interval 1 day"  # a device's clock may run ahead; by a day, it is another zone or a wrong clock
_OLDEST_AGE = 130
_TRUE, _FALSE = "('true', 't', '1', 'yes')", "('false', 'f', '0', 'no')"

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_NUMBERS = ("DOUBLE", "FLOAT", "DECIMAL", *_INTEGERS)


@dataclass(frozen=True)
class _Kind:
    """How one kind of column comes in Parquet: the types taken, the type it is read as, and the words for it."""

    accepted: tuple[str, ...]
    read_as: str
    words: str


_KINDS = {
    "string": _Kind(("VARCHAR", "JSON", "UUID", *_INTEGERS), "varchar", "text"),
    "double": _Kind(_NUMBERS, "double", "a number"),
    "int64": _Kind(_NUMBERS, "double", "a whole number"),
    "bool": _Kind(("BOOLEAN",), "boolean", "a boolean"),
    str(TIMESTAMP): _Kind(("TIMESTAMP WITH TIME ZONE",), "timestamptz", "a timestamp with time zone (UTC)"),
}


_RAGGED = ("more or fewer values than the header has columns", "Is a value with a comma in it quoted?")
_REJECTED = {
    "MISSING COLUMNS": _RAGGED,
    "TOO MANY COLUMNS": _RAGGED,
    "UNQUOTED VALUE": ("broken quotes", 'Quote the whole value and double the quotes inside it: "a ""b"" c".'),
    "LINE SIZE OVER MAXIMUM": ("longer than 2 MB", "Is a quote left open?"),
    "INVALID ENCODING": ("not UTF-8", "Save the file as UTF-8."),
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file, how many rows have it, and the first of them."""

    file: str
    what: str
    fix: str
    column: str | None = None
    rows: Sequence[int] = ()
    count_rows: int = 0

    def __str__(self) -> str:
        """Return `events.csv, user_id: empty in 2 rows (3, 9). Give every row a value.` as one line."""
        place = f"{self.file}, {self.column}" if self.column else self.file
        if not self.count_rows:
            return f"{place}: {self.what}. {self.fix}"
        if self.count_rows == 1:
            return f"{place}: {self.what} in row {self.rows[0]}. {self.fix}"
        rows = ", ".join(map(str, self.rows)) + (", ..." if self.count_rows > len(self.rows) else "")
        return f"{place}: {self.what} in {self.count_rows:,} rows ({rows}). {self.fix}"


@dataclass(frozen=True)
class Check:
    """`breach` is SQL that is true where a row is wrong."""

    column: str
    breach: str
    what: str
    fix: str


@dataclass(frozen=True)
class Rule:
    """How a column is staged: its type when read, the value stored (of `raw_<name>`) and the checks."""

    read_as: str
    value: str
    checks: tuple[Check, ...]


def message(problems: Sequence[Problem]) -> str:
    """Return the text of the one error for all problems of all files."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"Nothing was loaded: {count}. Rows are data rows, counted from 1 without the header."]
    lines += [str(problem) for problem in problems]
    if len(lines) > MAX_LINES:
        count_left_off = len(lines) - MAX_LINES + 1
        last = f"... and {count_left_off} more problems: mend these and load again to see the rest."
        lines = [*lines[: MAX_LINES - 1], last]
    return "\n".join(lines)


def match_names(file: str, table: Table, names: Sequence[str]) -> list[Problem]:
    """Refuse missing and doubled columns. Of a misspelt one the place is told: headerless, it is data."""
    known = {column.name for column in table.columns}
    if known.isdisjoint(names):
        needed = ", ".join(column.name for column in table.columns if column.required)
        fix = f"Needed: {needed}. In a CSV file the first line names them, separated by commas."
        return [Problem(file, "names none of the columns", fix)]
    problems = []
    plain = [re.sub(r"[\W_]", "", name).lower() for name in names]
    strangers = {plain[place - 1]: place for place, name in enumerate(names, 1) if name not in known}
    for column in table.columns:
        if names.count(column.name) > 1:
            problems.append(Problem(file, "the column is there more than once", "Keep one.", column.name))
        if column.required and column.name not in names:
            near = difflib.get_close_matches(column.name.replace("_", ""), strangers, n=1, cutoff=SIMILAR)
            fix = f"Column {strangers[near[0]]} is named much like it: rename that one?" if near else "Add it."
            problems.append(Problem(file, "the column is missing", fix, column.name))
    return problems


def rejected(error_type: str) -> tuple[str, str]:
    """Return what is wrong, and the fix, for DuckDB's `error_type` of a CSV row that it could not split."""
    return _REJECTED.get(error_type, ("unreadable", "Export the file again."))


def wrong_type(file: str, column: Column, stored_as: str) -> Problem | None:
    """Refuse a Parquet column that would need guessing. Of its type one word is told: the rest may hold names."""
    kind = _KINDS[str(column.type)]
    word = "LIST" if stored_as.endswith("]") else stored_as.split("(", maxsplit=1)[0]
    if word in kind.accepted:
        return None
    return Problem(file, f"stored as {word}", f"Store the column as {kind.words}.", column.name)


def rule(column: Column, *, is_text: bool, now: datetime) -> Rule:
    """Return how a column is read from Parquet or, as text, from CSV. `now` is naive UTC, as DuckDB stores times."""
    raw, name, kind = f'"raw_{column.name}"', f'"{column.name}"', str(column.type)
    missing = f"{raw} is null"
    if kind == "string":
        missing, value = f"coalesce(trim({raw}), '') = ''", f"nullif({raw}, '')"
        others: Iterable[Check] = ()
    elif kind == str(TIMESTAMP):
        form = f"regexp_full_match({raw}, '{_ZONED}')"
        value = _utc(f"case when {form} then try_cast({raw} as timestamptz) end" if is_text else raw)
        others = _timestamp_checks(column.name, is_text=is_text, now=now)
    elif kind == "bool":
        said = f"case when lower({raw}) in {_TRUE} then true when lower({raw}) in {_FALSE} then false end"
        value = said if is_text else raw
        breach = f"{raw} is not null and {name} is null"
        others = [Check(column.name, breach, "neither true nor false", "Write true or false.")]
    else:
        number = f"try_cast({raw} as double)"
        value, others = number, _number_checks(column.name, number)
        if kind == "int64":  # from a floating number, too: 34.0 is how pandas writes a whole number beside a null
            value = f"case when abs({number}) < 1e15 and {number} = trunc({number}) then {number}::bigint end"
    required = [Check(column.name, missing, "empty", "Give every row a value.")] if column.required else []
    return Rule("varchar" if is_text else _KINDS[kind].read_as, value, (*required, *others))


def across_columns(table: Table, now: datetime) -> Iterator[Check]:
    """Yield what must hold between the required columns of a table."""
    if table is APP_EVENTS:
        # Bounded by now first: the sum could overflow.
        breach = f"case when loaded_at <= timestamp '{now}' then occurred_at > loaded_at + {_CLOCK_AHEAD} end"
        fix = "Are both in UTC, and was the device's clock right?"
        yield Check("occurred_at", breach, "more than 1 day after loaded_at", fix)


def _utc(zoned: str) -> str:
    # epoch_us is exact, cuts nanoseconds to microseconds, and takes a twentieth of the time of timezone('UTC', ...).
    return f"case when {zoned} between {_FIRST} and {_LAST} then make_timestamp(epoch_us({zoned})) end"


def _timestamp_checks(name: str, *, is_text: bool, now: datetime) -> Iterator[Check]:
    unzoned = f"regexp_full_match(\"raw_{name}\", '{_UNZONED}')"
    unread, fix = f'"raw_{name}" is not null and "{name}" is null', "Give years from 1 to 9999."
    if is_text:
        yield Check(name, unzoned, "without time zone", "End each in Z or an offset such as +01:00.")
        unread, fix = f"{unread} and not {unzoned}", "Write it as 2026-01-31T23:59:59Z."
    yield Check(name, unread, "not a timestamp", fix)
    breach, what = f"\"{name}\" > timestamp '{now}'", f"in the future (after {now:%Y-%m-%d %H:%M:%S} UTC)"
    yield Check(name, breach, what, "Is it in UTC, and is this computer's clock right?")


def _number_checks(name: str, number: str) -> Iterator[Check]:
    if name == "age":
        breach = f'"raw_{name}" is not null and coalesce("{name}" not between 0 and {_OLDEST_AGE}, true)'
        yield Check(name, breach, f"not a whole number from 0 to {_OLDEST_AGE}", "Give years, or leave it empty.")
        return
    breach = f'"raw_{name}" is not null and not coalesce(isfinite({number}), false)'
    yield Check(name, breach, "not a finite number", "Write digits and a decimal point, or leave it empty.")
    if name.endswith("_ratio"):
        breach = f'isfinite("{name}") and "{name}" not between 0 and 1'
        yield Check(name, breach, "outside 0 to 1", "0 to 100 given? Divide by 100.")
