"""Checks of a raw file before its rows are stored, and their messages.

A rule is SQL over a staged row: the value to store, and checks that are true if the row is wrong.
A message names file, column, rows and fix, and never quotes a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from core.names import MAX_CHARACTERS
from warehouse.loading import id_checks
from warehouse.loading.problems import Check, Problem, Variant
from warehouse.loading.spelling import misspellings
from warehouse.loading.time_checks import ZONED, time_checks, utc
from warehouse.tables import APP_EVENTS, TIMESTAMP, Column, Table

_CLOCK_AHEAD = "interval 1 day"  # a device's clock may be ahead; a full day means another time zone or a wrong clock
_OLDEST_AGE = 130
NAMES = ("event_name", "step", "campaign")  # columns whose values configuration may name
_TRUE, _FALSE = "('true', 't', '1', 'yes')", "('false', 'f', '0', 'no')"

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_NUMBERS = ("DOUBLE", "FLOAT", "DECIMAL", *_INTEGERS)


@dataclass(frozen=True)
class _Kind:
    """A kind of column in Parquet: the accepted types, the type it is read as, and its name for people."""

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


@dataclass(frozen=True)
class Rejection:
    """Why DuckDB could not split a CSV row. `is_one_row`: the end of the row is known nevertheless."""

    what: str
    fix: str
    is_one_row: bool = False


_RAGGED = Rejection(
    "more or fewer values than the header has columns", "Quote values that contain a comma.", is_one_row=True
)
_REJECTED = {
    "MISSING COLUMNS": _RAGGED,
    "TOO MANY COLUMNS": _RAGGED,
    "UNQUOTED VALUE": Rejection("broken quotes", 'Quote the whole value and double the quotes inside it: "a ""b"" c".'),
    "LINE SIZE OVER MAXIMUM": Rejection("longer than 2 MB", "Check for a missing closing quote."),
    "INVALID ENCODING": Rejection("not UTF-8", "Save the file as UTF-8.", is_one_row=True),
}


@dataclass(frozen=True)
class Rule:
    """How a column is staged: the type it is read as, the value to store (from `raw_<name>`) and the checks."""

    read_as: str
    value: str
    checks: tuple[Check, ...]


def match_names(file: str, table: Table, names: Sequence[str], *, is_cased: bool = True) -> list[Problem]:
    """Return problems for missing and repeated columns. A misspelt name is given by position, because it may be data.

    Without `is_cased`, the reader of the file treats `Step` and `step` as one column.
    """
    known = {column.name for column in table.columns}
    if known.isdisjoint(names):
        needed = ", ".join(column.name for column in table.columns if column.required)
        fix = f"Needed: {needed}. In a CSV file the first line names them, separated by commas."
        return [Problem(file, "contains none of the column names", fix)]
    problems = []
    counted = list(names) if is_cased else [name.lower() for name in names]
    missing = [column.name for column in table.columns if column.required and column.name not in names]
    near = misspellings(missing, (name for name in names if name not in known))
    for column in table.columns:
        if counted.count(column.name) > 1:
            fix = "Keep one." if names.count(column.name) > 1 else "Keep one: the names differ only in case."
            problems.append(Problem(file, "the column occurs more than once", fix, column.name))
        if column.name in missing:
            place = names.index(near[column.name]) + 1 if column.name in near else 0
            fix = f"Column {place} has a similar name: rename it if it is meant." if place else "Add it."
            if place and names[place - 1].strip() == column.name:
                fix = f"Column {place} has blanks around this name. Remove them."
            problems.append(Problem(file, "the column is missing", fix, column.name))
    return problems


def rejected(error_type: str) -> Rejection:
    """Return the rejection for DuckDB's `error_type` of a CSV row that it could not split."""
    return _REJECTED.get(error_type, Rejection("unreadable", "Export the file again."))


def wrong_type(file: str, column: Column, stored_as: str) -> Problem | None:
    """Return a problem for a Parquet column of an unsuitable type. Only one word of the type is shown; the rest may be names."""
    kind = _KINDS[str(column.type)]
    word = "LIST" if stored_as.endswith("]") else stored_as.split("(", maxsplit=1)[0]
    if word in kind.accepted:
        return None
    return Problem(file, f"stored as {word}", f"Store the column as {kind.words}.", column.name)


def may_be_epochs(column: Column, stored_as: str) -> bool:
    """Return whether a column of times is stored as numbers, whose unit can be recognised by their size."""
    return column.type == TIMESTAMP and stored_as.split("(", maxsplit=1)[0] in _NUMBERS


def rule(column: Column, *, is_text: bool, now: datetime, earliest: datetime) -> Rule:
    """Return the rule of a column in Parquet or, as text, in CSV. Times are naive UTC, as DuckDB stores them."""
    raw, name, kind = f'"raw_{column.name}"', f'"{column.name}"', str(column.type)
    missing = f"{raw} is null"
    if kind == "string":
        missing, value = id_checks.empty(raw), f"nullif({raw}, '')"
        others: Iterable[Check] = _text_checks(column.name)
    elif kind == str(TIMESTAMP):
        form = f"regexp_full_match({raw}, '{ZONED}')"
        value = utc(f"case when {form} then try_cast({raw} as timestamptz) end" if is_text else raw)
        others = time_checks(column.name, is_text=is_text, is_required=column.required, now=now, earliest=earliest)
    elif kind == "bool":
        said = f"case when lower({raw}) in {_TRUE} then true when lower({raw}) in {_FALSE} then false end"
        value = said if is_text else raw
        breach = f"{raw} is not null and {name} is null"
        others = [Check(column.name, breach, "neither true nor false", "Write true or false.")]
    else:
        number = f"try_cast({raw} as double)"
        value, others = number, _number_checks(column.name, number)
        if kind == "int64":  # also from a floating number: pandas writes 34 as 34.0 in a column with nulls
            value = f"case when abs({number}) < 1e15 and {number} = trunc({number}) then {number}::bigint end"
    required = [Check(column.name, missing, "empty", "Give every row a value.")] if column.required else []
    return Rule("varchar" if is_text else _KINDS[kind].read_as, value, (*required, *others))


def _text_checks(name: str) -> Iterator[Check]:
    """Yield the checks of ids, and of names that config/funnel.yml may contain. Other texts are not checked."""
    raw = f'"raw_{name}"'
    if name.endswith("_id"):
        yield _stand_in(name)
    if name.endswith("_id") or name in NAMES:
        yield Check(name, id_checks.padded(raw), "with blanks or invisible characters around it", "Trim the column.")
        fix = "Export only its visible characters."
        yield Check(name, id_checks.hidden(raw), "with a control or invisible character inside", fix)
        longest = f"longer than {MAX_CHARACTERS:,} characters"
        yield Check(name, id_checks.too_long(raw), longest, "Check that it is the right column.")


def _stand_in(name: str) -> Check:
    raw, staged = f'"raw_{name}"', f"raw['{name}']"
    fix = "Leave out rows without an id, or give each row its own id."
    digits = Variant(
        id_checks.rounded(staged), "a number with an exponent, without its last digits,", "Export ids as text."
    )
    breach = f"({id_checks.placeholder(raw)} or {id_checks.rounded(raw)})"
    return Check(name, breach, "a placeholder for no id, such as NULL,", fix, (digits,))


def across_columns(table: Table, now: datetime, earliest: datetime) -> Iterator[Check]:
    """Yield the checks across the required columns of a table."""
    if table is APP_EVENTS:
        # Only for times within bounds: a time outside has its own problem, and the sum could overflow.
        bounds = f"loaded_at >= timestamp '{earliest}' and greatest(loaded_at, occurred_at) <= timestamp '{now}'"
        breach = f"case when {bounds} then occurred_at > loaded_at + {_CLOCK_AHEAD} end"
        fix = "Check that both are in UTC and that the device's clock was correct."
        yield Check("occurred_at", breach, "more than 1 day after loaded_at", fix)


def _number_checks(name: str, number: str) -> Iterator[Check]:
    if name == "age":
        breach = f'"raw_{name}" is not null and coalesce("{name}" not between 0 and {_OLDEST_AGE}, true)'
        yield Check(name, breach, f"not a whole number from 0 to {_OLDEST_AGE}", "Write years, or leave it empty.")
        return
    breach = f'"raw_{name}" is not null and not coalesce(isfinite({number}), false)'
    yield Check(name, breach, "not a finite number", "Write digits and a decimal point, or leave it empty.")
    if name.endswith("_ratio"):
        breach = f'isfinite("{name}") and "{name}" not between 0 and 1'
        yield Check(name, breach, "outside 0 to 1", "If it is a percentage, divide it by 100.")
