"""Places where a run may die or pause, and a way to make it die or pause exactly there.

Places lie around effects, which leave the process: a build by dbt, a write to the warehouse, a request to the CRM. Each effect
has two places: before it (the request is not sent yet) and after it (between the CRM's reply and the code that uses it).
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from crm_sync.destinations.http.transport import Transport
from jobs.transform.dbt import Transform
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import Table


@dataclass(frozen=True)
class Place:
    """What a place of a run lies before or after (`build features`, `append ops.runs`), and how often that was passed, from 1.

    Not its number in the whole run: a request that a slow machine has to repeat would shift all later ones.
    """

    when: str
    effect: str
    number: int

    def __str__(self) -> str:
        return f"{self.when} {self.effect}"


@dataclass
class Places:
    """Counts the places that this process passes, and acts at one of them: the place given, or the first of its name.

    By default the process is killed there. Effects of another `act` are not counted as places.
    """

    told_in: Path
    stop_at: Place | str | None = None
    act: Callable[[], object] = lambda: os.kill(os.getpid(), signal.SIGKILL)
    passed: list[Place] = field(default_factory=list)
    _is_out: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _within: threading.local = field(default_factory=threading.local)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Put a place before and after every effect, and record all places passed."""
        warehouses: list[Any] = [DuckDBWarehouse]
        if "warehouse.bigquery.warehouse" in __import__("sys").modules:
            from warehouse.bigquery.warehouse import BigQueryWarehouse  # noqa: PLC0415 - slow

            warehouses.append(BigQueryWarehouse)
        effects: list[tuple[Any, str, Callable[..., str]]] = [
            (Transform, "build", lambda _, selector, **__: f"build {selector}"),
            (Transport, "_exchange", lambda _, __, request: f"request {_endpoint(request.method, request.path)}"),
            *((each, name, _written(name)) for each in warehouses for name in ("append", "append_once", "discard")),
        ]
        patches = [
            mock.patch.object(owner, name, self._near(getattr(owner, name), named)) for owner, name, named in effects
        ]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()
            if self.stop_at is not None or not self.told_in.exists():
                self.told_in.write_text(json.dumps([asdict(place) for place in self.passed]))

    def _near(self, effect: Callable[..., Any], named: Callable[..., str]) -> Callable[..., Any]:
        def dangerous(*args: Any, **kwargs: Any) -> Any:
            if self._is_out or getattr(self._within, "effect", False):  # on DuckDB, append_once is an append
                return effect(*args, **kwargs)
            name = named(*args, **kwargs)
            self._pass("before", name)
            self._within.effect = True
            try:
                answer = effect(*args, **kwargs)
            finally:
                self._within.effect = False
            self._pass("after", name)
            return answer

        return dangerous

    def _pass(self, when: str, effect: str) -> None:
        with self._lock:
            number = 1 + sum((each.when, each.effect) == (when, effect) for each in self.passed)
            place = Place(when, effect, number)
            self.passed.append(place)
            if self.stop_at not in (place, str(place)):
                return
            self.stop_at = None
            self.told_in.write_text(json.dumps([asdict(place)]))
        self._is_out = True
        self.act()
        self._is_out = False


def told(file: Path) -> list[Place]:
    """Return the places that a process recorded: all it passed, or the one where it received the signal."""
    return [Place(**each) for each in json.loads(file.read_text())] if file.exists() else []


def _written(name: str) -> Callable[..., str]:
    def named(_: Any, table: Table, *__: Any, **___: Any) -> str:
        return f"{name} {table.title}"

    return named


def _endpoint(method: str, path: str) -> str:
    """Return method and path without ids."""
    return f"{method} {re.sub(r'(?<=/)(?=[^/]*[0-9])[^/]{10,}', '*', urlsplit(path).path)}"
