"""Log of deliveries: each row before it is sent, and its outcome after the CRM has answered.

Without the first entry, a run killed after the CRM accepted a row would leave no trace of it. If the desired state then returned
to the acknowledged one, the CRM would keep a different value unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa

from crm_sync.destination import Outcome
from crm_sync.diff import Change, Changed
from warehouse.interface import Warehouse
from warehouse.tables import DELIVERIES, TIMESTAMP, fitted


class DeliveryLog:
    """Buffers rows of `ops.deliveries` and appends them in large enough groups.

    After a crash before a flush, the buffered rows are in doubt: the next run sends them again with every field.
    """

    def __init__(
        self, warehouse: Warehouse, run_id: str, epoch: int, now: Callable[[], datetime], *, crm_number: int = 0
    ) -> None:
        """Store the values of every row: the run, its epoch, and the number of the CRM in `ops.crms`."""
        self._warehouse, self._run_id, self._epoch, self._now = warehouse, run_id, epoch, now
        self._crm_number = crm_number
        self._buffer: list[_Attempts] = []

    def intend(self, changed: Changed) -> None:
        """Append what is about to be sent. The rows are stored when this returns."""
        if changed.changes:
            attempts = _Attempts("sending", changed.states)
            attempts.add(changed.changes, [None] * len(changed.changes), self._now())
            self._append([attempts])

    def forgo(self, unsent: Sequence[Change], states: pa.RecordBatch) -> None:
        """Buffer the note that these changes were not sent."""
        self._keep("deferred", unsent, [None] * len(unsent), states)

    def write(self, sent: Sequence[Change], states: pa.RecordBatch, outcomes: Sequence[Outcome]) -> None:
        """Buffer the outcomes that the CRM returned; rows without one are skipped. May flush."""
        for kind in ("delivered", "rejected"):
            pairs = [(change, outcome) for change, outcome in zip(sent, outcomes, strict=True) if outcome.kind == kind]
            self._keep(kind, [change for change, _ in pairs], [outcome for _, outcome in pairs], states)

    def _keep(
        self, kind: str, changes: Sequence[Change], outcomes: Sequence[Outcome | None], states: pa.RecordBatch
    ) -> None:
        if not changes:
            return
        last = next((each for each in reversed(self._buffer) if each.kind == kind), None)
        if last is None or last.states is not states:
            self._buffer.append(last := _Attempts(kind, states))
        last.add(changes, outcomes, self._now())
        if sum(len(each.changes) for each in self._buffer) >= self._warehouse.rows_per_append:
            self.flush()

    def flush(self) -> None:
        """Append the buffered rows."""
        if self._buffer:
            # Empty the buffer only after the append, so that a flush after an error tries again.
            self._append(self._buffer)
            self._buffer = []

    def _append(self, attempts: Sequence[_Attempts]) -> None:
        rows = [each.rows(self._run_id, self._epoch, self._crm_number) for each in attempts]
        self._warehouse.append(DELIVERIES, pa.Table.from_batches(rows))


@dataclass
class _Attempts:
    """Attempts of one kind on rows of one batch of states. They become columns at once: a batch of a CRM has few rows."""

    kind: str
    states: pa.RecordBatch
    changes: list[Change] = field(default_factory=list)
    outcomes: list[Outcome | None] = field(default_factory=list)
    attempted_at: list[datetime] = field(default_factory=list)

    def add(self, changes: Sequence[Change], outcomes: Sequence[Outcome | None], now: datetime) -> None:
        """Add attempts of the same time."""
        self.changes += changes
        self.outcomes += outcomes
        self.attempted_at += [now] * len(changes)

    def rows(self, run_id: str, epoch: int, crm_number: int) -> pa.RecordBatch:
        """Return the rows of `ops.deliveries`."""
        count = len(self.changes)
        known = self.states.take(pa.array([change.row for change in self.changes], pa.int32()))
        if self.kind in ("rejected", "deferred"):
            # The CRM's values did not change.
            known = known.select(["user_id", "desired_hash"])
        columns = {name: known.column(name) for name in known.schema.names} | {
            "run_id": pa.repeat(run_id, count),
            "epoch": pa.repeat(epoch, count),
            "fields_sent": pa.array([",".join(change.attributes) for change in self.changes]),
            "attempted_at": pa.array(self.attempted_at, TIMESTAMP),
            "outcome": pa.repeat(self.kind, count),
            "http_status": pa.array([outcome and outcome.http_status for outcome in self.outcomes], pa.int64()),
            "error_code": pa.array([outcome and outcome.code for outcome in self.outcomes], pa.string()),
            "error_reason": pa.array([outcome and outcome.reason for outcome in self.outcomes], pa.string()),
            "crm_number": pa.repeat(crm_number, count),
        }
        return fitted(pa.RecordBatch.from_pydict(columns), DELIVERIES.schema)
