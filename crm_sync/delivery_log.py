"""Log of deliveries: each row before it is sent, and its outcome after the CRM has answered.

Without the first entry, a run killed after the CRM accepted a row would leave no trace of it. If the desired state then returned
to the acknowledged one, the CRM would keep a different value unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    def __init__(self, warehouse: Warehouse, run_id: str, epoch: int, now: Callable[[], datetime]) -> None:
        self._warehouse, self._run_id, self._epoch, self._now = warehouse, run_id, epoch, now
        self._parts: list[pa.RecordBatch] = []
        self._count = 0

    def intend(self, changed: Changed) -> None:
        """Append what is about to be sent. The rows are stored when this returns."""
        if changed.changes:
            rows = self._rows("sending", [(change, None) for change in changed.changes], changed.states)
            self._warehouse.append(DELIVERIES, pa.Table.from_batches([rows]))

    def forgo(self, unsent: Sequence[Change], states: pa.RecordBatch) -> None:
        """Buffer the note that these changes were not sent."""
        if unsent:
            self._keep(self._rows("deferred", [(change, None) for change in unsent], states))

    def write(self, sent: Sequence[Change], states: pa.RecordBatch, outcomes: Sequence[Outcome]) -> None:
        """Buffer the outcomes that the CRM returned; rows without one are skipped. May flush."""
        for kind in ("delivered", "rejected"):
            pairs = [(c, o) for c, o in zip(sent, outcomes, strict=True) if o.kind == kind]
            if pairs:
                self._keep(self._rows(kind, pairs, states))

    def _keep(self, rows: pa.RecordBatch) -> None:
        self._parts.append(rows)
        self._count += rows.num_rows
        if self._count >= self._warehouse.rows_per_append:
            self.flush()

    def flush(self) -> None:
        """Append the buffered rows."""
        if self._parts:
            # Empty the buffer only after the append, so that a flush after an error tries again.
            self._warehouse.append(DELIVERIES, pa.Table.from_batches(self._parts))
            self._parts, self._count = [], 0

    def _rows(
        self, kind: str, pairs: Sequence[tuple[Change, Outcome | None]], states: pa.RecordBatch
    ) -> pa.RecordBatch:
        count = len(pairs)
        known = states.take(pa.array([change.row for change, _ in pairs], pa.int32()))
        if kind in ("rejected", "deferred"):
            # The CRM's values did not change.
            known = known.select(["user_id", "desired_hash"])
        columns = {name: known.column(name) for name in known.schema.names} | {
            "run_id": pa.repeat(self._run_id, count),
            "epoch": pa.repeat(self._epoch, count),
            "fields_sent": pa.array([",".join(change.attributes) for change, _ in pairs]),
            "attempted_at": pa.repeat(pa.scalar(self._now(), TIMESTAMP), count),
            "outcome": pa.repeat(kind, count),
            "http_status": pa.array([outcome and outcome.http_status for _, outcome in pairs], pa.int64()),
            "error_code": pa.array([outcome and outcome.code for _, outcome in pairs], pa.string()),
            "error_reason": pa.array([outcome and outcome.reason for _, outcome in pairs], pa.string()),
        }
        return fitted(pa.RecordBatch.from_pydict(columns), DELIVERIES.schema)
