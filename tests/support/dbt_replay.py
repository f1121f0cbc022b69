"""How are a hundred run windows built in the time dbt needs for one?

dbt runs once in a process, over empty tables and a window of made-up times a century apart. What it executed is kept, and for
every real window executed again in memory with those times moved: the models' own SQL, merges included, without dbt around it.
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

# What the features of an exit are built of; crm_* and the candidates for scoring are not.
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
FORMS = {"backfill": True, "features": False, "audience": False, "examples": False}  # selector: whether built anew

_TIMES = [name for name, kind in get_type_hints(Window).items() if kind is datetime]
# A century apart, so that a time in the SQL tells by its nearest mark which var it was made from; 1970 and 9999 are of none.
# Not at midnight, so that a midnight in the SQL tells that a day was cut off.
MARKS: dict[str, Any] = {name: datetime(2100 + 100 * n, 7, 1, 13, 7, 9, tzinfo=UTC) for n, name in enumerate(_TIMES)}
_NEAR = timedelta(days=40 * 365)
_LITERAL = re.compile(r"(?<=')(\d{4}-\d\d-\d\d(?: \d\d:\d\d:\d\d(?:\.\d+)?)?)(?=(?:\+00)?')")
_CHANGES = re.compile(r"(create|alter|drop|merge|insert|delete|update|truncate)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """What dbt executed for a model; every second piece is a time, as it stood between its quotes."""

    model: str
    pieces: tuple[str, ...]


Recording = dict[str, list[Statement]]


@cache
def recorded() -> Recording:
    """Everything dbt executes to change tables, by selector. Takes seven seconds, once in a process."""
    from dbt.adapters.duckdb.environments.local import DuckDBCursorWrapper  # noqa: PLC0415 - dbt takes a second to import

    executed: list[str] = []
    execute = DuckDBCursorWrapper.execute

    def record(cursor: Any, sql: str, bindings: Any = None) -> Any:
        executed.append(sql)
        return execute(cursor, sql, bindings)

    recording = {}
    # The database is named after its file, and one in memory is named memory: dbt's SQL then fits as it is.
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
    """A statement's SQL with the times of an actual window."""
    actual = {name: datetime.fromisoformat(window.as_vars()[name]) for name in _TIMES}
    texts, times = statement.pieces[::2], [_moved(time, actual) for time in statement.pieces[1::2]]
    return "".join(part for pair in zip(texts, [*times, ""], strict=True) for part in pair)


def changing(sql: str) -> Statement | None:
    """What dbt executed for a model to change tables; None for whatever else it executed."""
    node = re.search(r'"node_id": "model\.winback\.(\w+)"', sql)
    bare = re.sub(r"/\*.*?\*/", "", sql, flags=re.DOTALL).strip()
    if not node or not _CHANGES.match(bare):
        return None
    pieces = _LITERAL.split(bare.replace("create temporary table", "create or replace temporary table"))
    # A time of a window in any other spelling would stay where it is, and the replay would be of no window at all.
    years = "|".join(str(mark.year + n) for mark in MARKS.values() for n in (-1, 0))
    assert not re.search(rf"\b({years})\b", " ".join(pieces[::2])), bare
    return Statement(node[1], tuple(pieces))


class Replay:
    """The tables of one stream of events, in memory.

    `models` are those that a window is built of, all when left out; what they read must be among them.
    """

    def __init__(self, events: pa.Table, models: Iterable[str] | None = None) -> None:
        """Make the tables that Python writes, and have the events arrive."""
        self.warehouse = DuckDBWarehouse(Path(":memory:"))
        self.warehouse.prepare()
        # For a few rows a plan costs more than it saves: without the optimizer a window takes 24 ms, not 36.
        self.warehouse.connection.execute("set threads = 1; pragma disable_optimizer")
        for schema in ("staging", "intermediate", "marts"):
            self.warehouse.connection.execute(f"create schema if not exists {schema}")
        self.warehouse.append(APP_EVENTS, events)
        self._models = None if models is None else set(models)

    def build(self, selector: str, window: Window) -> None:
        """Do what `Transform(...).build(selector)` does, the backfill as a full refresh, without the data tests."""
        if selector == "examples":
            self.warehouse.connection.execute("drop table if exists marts.fct_training_examples")
        for statement in recorded()[selector]:
            if self._models is None or statement.model in self._models or statement.model.startswith("stg_"):
                self.warehouse.connection.execute(over(window, statement))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the tables."""
        return self.warehouse.connection.execute(sql).fetchall()

    def close(self) -> None:
        """Forget everything."""
        self.warehouse.close()


def _moved(time: str, actual: dict[str, datetime]) -> str:
    """A time as dbt would have written it for the actual window; a date stays a date and a midnight a midnight."""
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
