"""Recorder of one disturbed sync: a destination that records calls, and a process that may die at any step."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

import pyarrow as pa

from core.errors import WinbackError
from crm_sync.destination import BatchRefusedError, Destination, Finding, Outcome, Run
from crm_sync.diff import Change, Value
from crm_sync.field_mapping import Kind
from crm_sync.sync import SyncCounts
from sandbox.local_crm.faults import Fault
from tests.support.sync.tables import SyncTables
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import Table


class Killed(BaseException):
    """The process was killed: no later code has an effect."""


@dataclass(frozen=True)
class Trouble:
    """The fault of one sync; `at` is the batch it hits, counted from 0.

    `kind` is none, row_errors, killed, stopped, deadline, overtaken, or a fault of the local CRM that hits `times` requests.
    """

    kind: str = "none"
    at: int = 0
    times: int = 1
    users: tuple[str, ...] = ()
    place: str = ""
    in_flight: int = 1
    rows_per_append: int = 1
    is_folded: bool = True


@dataclass(frozen=True)
class Call:
    """One call of `send`: the change of each user, and the result: answered, refused or failed."""

    told: Mapping[str, Mapping[str, Value]]
    end: str
    during: frozenset[str]  # users whose vouchers other calls were withdrawing when this one began


@dataclass
class Sync:
    """Record of one sync. A killed sync has no counts."""

    run_id: str
    trouble: Trouble
    pending: int
    with_voucher: frozenset[str]  # users who had a voucher in the CRM before
    voucher: str  # the property that shows it
    calls: list[Call] = field(default_factory=list)
    counts: SyncCounts | None = None
    stopped: WinbackError | None = None
    is_killed: bool = False

    def takes_away(self, user: str, told: Mapping[str, Value]) -> bool:
        """Whether the change withdraws a voucher that the user had in the CRM."""
        return user in self.with_voucher and told.get(self.voucher) is False

    def die(self) -> NoReturn:
        """Kill the process."""
        self.is_killed = True
        raise Killed

    @property
    def told(self) -> dict[str, dict[str, Value]]:
        """Return what was sent to each user, whatever the result."""
        sent: dict[str, dict[str, Value]] = defaultdict(dict)
        for call in self.calls:
            for user, attributes in call.told.items():
                sent[user] |= attributes
        return sent


class Witness:
    """A Destination that records every batch, and calls hooks before and after each."""

    def __init__(
        self, inner: Destination, seen: Sync, before: Callable[[int], None], after: Callable[[int], None]
    ) -> None:
        self._inner, self._seen, self._before, self._after = inner, seen, before, after
        self.max_batch, self.max_in_flight = inner.max_batch, seen.trouble.in_flight
        self._taking_away: list[str] = []
        self._count, self._lock = 0, threading.Lock()

    def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        """Send, and record the result."""
        away = [change.external_id for change in batch if self._seen.takes_away(change.external_id, change.attributes)]
        with self._lock:
            number, self._count = self._count, self._count + 1
            during = frozenset(self._taking_away)
            self._taking_away += away
        end = "failed"
        try:
            self._before(number)
            outcomes = self._inner.send(batch, run)
            end = "answered"
        except BatchRefusedError:
            end = "refused"
            raise
        finally:
            with self._lock:
                told = {change.external_id: dict(change.attributes) for change in batch}
                self._seen.calls.append(Call(told, end, during))
                self._taking_away = [user for user in self._taking_away if user not in away]
        self._after(number)
        return outcomes

    def erase(self, external_ids: Sequence[str], run: Run) -> list[Outcome]:
        raise NotImplementedError

    def examine(self, properties: Mapping[str, Kind], run: Run) -> list[Finding]:
        raise NotImplementedError

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


class MortalWarehouse(DuckDBWarehouse):
    """A warehouse connection whose process may die at an append; later operations have no effect."""

    def __init__(self, tables: SyncTables, seen: Sync) -> None:
        self.connection = tables.another_connection()
        self.rows_per_append = seen.trouble.rows_per_append
        self._seen, self._appends = seen, 0

    def append(self, table: Table, rows: pa.Table | Iterator[pa.RecordBatch]) -> int:
        """Append, and die before or after if the trouble says so."""
        if self._seen.is_killed:
            return 0
        is_due = self._seen.trouble.kind == "killed" and self._appends == self._seen.trouble.at
        self._appends += 1
        if is_due and self._seen.trouble.place == "before an append":
            self._seen.die()
        count = super().append(table, rows)
        if is_due and self._seen.trouble.place == "after an append":
            self._seen.die()
        return count


def faults_of(trouble: Trouble) -> list[Fault]:
    """Return the CRM faults of the trouble; they hit the next requests, in order."""
    kinds: dict[str, Callable[[], Fault]] = {
        "row_errors": partial(Fault, "row_error", times=None, external_ids=list(trouble.users)),
        "refused": partial(Fault, "status", status=400, after=trouble.at, times=trouble.times),
        "unavailable": partial(Fault, "status", status=503, after=trouble.at, times=10_000),
        "lost": partial(Fault, "lose_reply", after=trouble.at, times=trouble.times),
        "lost for good": partial(Fault, "lose_reply", after=trouble.at, times=10_000),
        "duplicated": partial(Fault, "duplicate_reply", after=trouble.at, times=trouble.times),
        "garbled": partial(Fault, "garbage", after=trouble.at, times=10_000),
    }
    return [kinds[trouble.kind]()] if trouble.kind in kinds else []
