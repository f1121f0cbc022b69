"""Checks of times: an unambiguous format and a plausible time. Wrong units and placeholders are recognised."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from warehouse.loading.problems import Check, Variant

# DuckDB's cast of text to a timestamp drops an offset silently, and its cast to one with a zone reads a missing offset
# as UTC. So the format of the text is checked first.
_DATE, _TIME = r"\d{4}-\d\d-\d\d", r"\d\d:\d\d:\d\d(\.\d{1,9})?"
ZONED = rf"{_DATE}[T ]{_TIME}(Z|[+-](0\d|1[0-4])(:?[0-5]\d)?)"
_UNZONED = rf"{_DATE}([T ]({_TIME}|\d\d:\d\d))?"
# Python's range of years. DuckDB's infinities lie outside, and no reader of the tables could represent them.
_FIRST, _LAST = "timestamptz '0001-01-02 00:00:00Z'", "timestamptz '9999-12-30 00:00:00Z'"
_FAR = "interval 50 years"  # no clock is this far ahead: such a time is a placeholder

# Microseconds of each unit. A time read in the wrong unit is off by a quotient of two of them.
_UNITS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1, "nanoseconds": 0.001}
_A_YEAR = 366 * 86_400_000_000  # a time's clock may be wrong in addition to its unit
_TOO_SMALL = {
    1_000: "Seconds were read as milliseconds",
    1_000_000: "Seconds were read as microseconds, or milliseconds as nanoseconds",
    1_000_000_000: "Seconds were read as nanoseconds",
}
_TOO_LARGE = {1_000: "Milliseconds were read as seconds", 1_000_000: "Microseconds were read as seconds"}
_NO_TIME = {
    True: "It is a placeholder for a missing time: write the real time.",
    False: "It is a placeholder for a missing time: leave the value empty.",
}


def utc(zoned: str) -> str:
    """SQL for a time with zone as naive UTC, as the tables store it; null outside the years 1 to 9999."""
    # epoch_us is exact, truncates nanoseconds to microseconds, and is 20 times as fast as timezone('UTC', ...).
    return f"case when {zoned} between {_FIRST} and {_LAST} then make_timestamp(epoch_us({zoned})) end"


def time_checks(name: str, *, is_text: bool, is_required: bool, now: datetime, earliest: datetime) -> Iterator[Check]:
    """Yield the checks of a column of times. `now` and `earliest` are naive UTC."""
    raw, value, span = f'"raw_{name}"', f'"{name}"', (earliest, now)
    unzoned = f"regexp_full_match({raw}, '{_UNZONED}')"
    unread, fix = f"{raw} is not null and {value} is null", "Give years from 1 to 9999."
    variants = [*_never(f"raw['{name}']", is_required), *_large(name, span)]
    if is_text:
        yield Check(name, unzoned, "without time zone", "End each in Z or an offset such as +01:00.")
        unread, fix = f"{unread} and not {unzoned}", "Write it as 2026-01-31T23:59:59Z."
        variants += _numbers(f"raw['{name}']", span)
    yield Check(name, unread, "not a timestamp", fix, tuple(variants))
    breach, what = f"{value} < timestamp '{earliest}'", f"before {earliest:%Y-%m-%d}"
    fix = "Correct it if it is a placeholder; if it is real, set WINBACK_EARLIEST_AT to an earlier time."
    yield Check(name, breach, what, fix, tuple(_small(name, is_required, span)))
    breach, what = f"{value} > timestamp '{now}'", f"in the future (after {now:%Y-%m-%d %H:%M:%S} UTC)"
    far = Variant(f"{value} > timestamp '{now}' + {_FAR}", "more than 50 years in the future", _NO_TIME[is_required])
    yield Check(name, breach, what, "Check that it is in UTC and this computer's clock.", (*_large(name, span), far))


def unit_of(lowest: float, highest: float, span: tuple[datetime, datetime]) -> str | None:
    """Return the unit since 1970 in which two numbers are times within `span`; None if there is none."""
    first, last = _microseconds(span[0]), _microseconds(span[1]) + _A_YEAR
    fitting = (unit for unit, factor in _UNITS.items() if first <= lowest * factor and highest * factor <= last)
    return next(fitting, None)


def _microseconds(moment: datetime) -> float:
    return moment.replace(tzinfo=UTC).timestamp() * 1e6


def _is_between(microseconds: str, span: tuple[datetime, datetime]) -> str:
    return f"{microseconds} between {_microseconds(span[0])} and {_microseconds(span[1]) + _A_YEAR}"


def _numbers(raw: str, span: tuple[datetime, datetime]) -> Iterator[Variant]:
    """Variants for numbers instead of times, by the unit in which they would be plausible times."""
    for unit, factor in _UNITS.items():
        condition = _is_between(f"try_cast({raw} as double) * {factor}", span)
        fix = f"Write times such as 2026-01-31T23:59:59Z, converted from {unit}; numbers are not accepted."
        yield Variant(condition, f"a number that looks like {unit} since 1970,", fix)


def _never(raw: str, is_required: bool) -> Iterator[Variant]:
    """Variants for the first and the last day of the calendar, which programs write for a missing time."""
    ends = f"regexp_full_match({raw}, '(0001-01-01|9999-12-3[01]).*')"
    yield Variant(ends, "on the first or last day of the calendar", _NO_TIME[is_required])


def _small(name: str, is_required: bool, span: tuple[datetime, datetime]) -> Iterator[Variant]:
    """Variants for times too early: zero, a unit read as a smaller one, a year of two digits, a spreadsheet's day zero."""
    value, since = f'"{name}"', f'epoch_us("{name}")'
    yield Variant(f"{since} = 0", "at 1970-01-01 00:00:00, the Unix time 0,", _NO_TIME[is_required])
    for factor, said in _TOO_SMALL.items():
        condition = _is_between(f"{since}::double * {factor}", span)
        yield Variant(condition, "near 1970-01-01", f"{said}: convert with the right unit.")
    yield Variant(f"year({value}) < 100", "in a year of two digits", "Write the year with its century: 2027, not 27.")
    spreadsheet = f"{value}::date in (date '1899-12-30', date '1899-12-31', date '1900-01-01', date '1904-01-01')"
    yield Variant(spreadsheet, "on the first day of a spreadsheet's calendar", _NO_TIME[is_required])


def _large(name: str, span: tuple[datetime, datetime]) -> Iterator[Variant]:
    """Variants for times too late because a unit was read as a larger one. After the year 9999 only the raw value exists."""
    since = f"coalesce(epoch_us(\"{name}\"), epoch_us(try_cast(raw['{name}'] as timestamptz)))"
    for factor, said in _TOO_LARGE.items():
        condition = _is_between(f"{since}::double / {factor}", span)
        yield Variant(condition, "thousands of years ahead", f"{said}: convert with the right unit.")
