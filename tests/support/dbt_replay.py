"""Replays dbt's SQL in memory, so that a hundred run windows take as long as dbt needs for one.

dbt runs once per process, over empty tables and a window of artificial times a century apart. Its statements are recorded. For
every real window they are executed again in memory with the times replaced: the models' own SQL, with merges, but without dbt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as clock
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_type_hints

import pyarrow as pa
import pytest

from jobs.context import open_context
from jobs.transform.dbt import Window
from tests.support.environment import settings_in
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import APP_EVENTS

# The models that an exit's features depend on; crm_* and the candidates for scoring are not among them.
FEATURES = frozenset(
    {
        "int_events__deduplicated",
        "int_outcomes",
        "int_users_touched",
        "int_sessions_this_run",
        "int_sessions",
        "int_exits_this_run",
        "fct_unfinished_exits",
        "fct_exit_features",
    }
)
FORMS = {
    "backfill": True,
    "features": False,
    "audience": False,
    "examples": False,
}  # selector: whether it is a full refresh

_TIMES = [name for name, kind in get_type_hints(Window).items() if kind is datetime]
# A century apart, so that the nearest mark shows which var a time in the SQL came from; 1970 and 9999 belong to none.
# Not at midnight, so that a midnight in the SQL shows that a day was truncated.
MARKS: dict[str, Any] = {name: datetime(2100 + 100 * n, 7, 1, 13, 7, 9, tzinfo=UTC) for n, name in enumerate(_TIMES)}
_NEAR = timedelta(days=40 * 365)
_LITERAL = re.compile(r"(?<=')(\d{4}-\d\d-\d\d(?: \d\d:\d\d:\d\d(?:\.\d+)?)?)(?=(?:\+00)?')")
_CHANGES = re.compile(r"(create|alter|drop|merge|insert|delete|update|truncate)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """A statement that dbt executed for a model; every second piece is a time, without its quotes."""

    model: str
    pieces: tuple[str, ...]


Recording = dict[str, list[Statement]]


@cache
def recorded() -> Recording:
    """Return all statements with which dbt changes tables, by selector. Takes seven seconds, once per process."""
    from dbt.adapters.duckdb.environments.local import DuckDBCursorWrapper  # noqa: PLC0415 - dbt takes a second to import

    executed: list[str] = []
    execute = DuckDBCursorWrapper.execute

    def record(cursor: Any, sql: str, bindings: Any = None) -> Any:
        executed.append(sql)
        return execute(cursor, sql, bindings)

    recording = {}
    # A database is named after its file, and one in memory is named memory, so that dbt's SQL fits without changes.
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "memory.duckdb"
        DuckDBWarehouse(path).close()
        patch.setattr(DuckDBCursorWrapper, "execute", record)
        with open_context(settings_in(Path(folder), warehouse=f"duckdb:///{path}")) as context:
            for selector, is_full in FORMS.items():
                executed.clear()
                context.transform(Window(**MARKS)).build(selector, full_refresh=is_full)
                recording[selector] = [s for sql in executed if (s := changing(sql))]
    return recording


def over(window: Window, statement: Statement) -> str:
    """Return a statement's SQL with the times of an actual window."""
    actual = {name: datetime.fromisoformat(window.as_vars()[name]) for name in _TIMES}
    texts, times = statement.pieces[::2], [_moved(time, actual) for time in statement.pieces[1::2]]
    return "".join(part for pair in zip(texts, [*times, ""], strict=True) for part in pair)


def changing(sql: str) -> Statement | None:
    """Return a statement that changes tables; None for any other."""
    node = re.search(r'"node_id": "model\.winback\.(\w+)"', sql)
    bare = re.sub(r"/\*.*?\*/", "", sql, flags=re.DOTALL).strip()
    if not node or not _CHANGES.match(bare):
        return None
    pieces = _LITERAL.split(bare.replace("create temporary table", "create or replace temporary table"))
    # A time of a window in another format would not be replaced, and the replay would use a wrong window.
    years = "|".join(str(mark.year + n) for mark in MARKS.values() for n in (-1, 0))
    assert not re.search(rf"\b({years})\b", " ".join(pieces[::2])), bare
    return Statement(node[1], tuple(pieces))


class Replay:
    """Tables of one stream of events, in memory.

    `models` are the models that a window builds, by default all. Their inputs must be among them.
    """

    def __init__(self, events: pa.Table, models: Iterable[str] | None = None) -> None:
        """Create the tables that Python writes, and load the events."""
        self.warehouse = DuckDBWarehouse(Path(":memory:"))
        self.warehouse.prepare()
        # For a few rows, a query plan costs more than it saves: without the optimizer a window takes 24 ms instead of 36.
        self.warehouse.connection.execute("set threads = 1; pragma disable_optimizer")
        for schema in ("staging", "intermediate", "marts"):
            self.warehouse.connection.execute(f"create schema if not exists {schema}")
        self.warehouse.append(APP_EVENTS, events)
        self._models = None if models is None else set(models)

    def build(self, selector: str, window: Window) -> None:
        """Do the same as `Transform(...).build(selector)`, with the backfill as a full refresh, without the data tests."""
        if selector == "examples":
            self.warehouse.connection.execute("drop table if exists marts.fct_training_examples")
        for statement in recorded()[selector]:
            if self._models is None or statement.model in self._models or statement.model.startswith("stg_"):
                self.warehouse.connection.execute(over(window, statement))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Query the tables."""
        return self.warehouse.connection.execute(sql).fetchall()

    def close(self) -> None:
        """Close the database."""
        self.warehouse.close()


def _moved(time: str, actual: dict[str, datetime]) -> str:
    """Return a time as dbt would have written it for the actual window; a date stays a date, a midnight a midnight."""
    said = datetime.fromisoformat(time)
    is_day = said == datetime.combine(said.date(), clock.min)
    for name, mark in MARKS.items():
        there, here = mark.replace(tzinfo=None), actual[name]
        if is_day:
            there, here = (datetime.combine(moment.date(), clock.min) for moment in (there, here))
        if abs(said - there) < _NEAR:
            moved: datetime = here + (said - there)
            return moved.date().isoformat() if len(time) == len("2100-07-01") else moved.isoformat(sep=" ")
    return time
