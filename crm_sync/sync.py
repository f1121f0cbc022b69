"""How does the CRM come to hold the desired state, with nothing counted as delivered that it did not confirm?

Withdrawals first, then the most valuable. Every row ends in one outcome; delivered and rejected rows are logged after the CRM's
own word for them, so a crash between the reply and the log means one more upsert of the same state, never a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

import pyarrow as pa

from crm_sync.destination import BatchRefusedError, Destination, Outcome, UnavailableError
from crm_sync.fields import Change, FieldMapping, change
from warehouse.errors import CircuitOpenError, ContractError, RetryableError, WinbackError
from warehouse.interface import Warehouse, count
from warehouse.tables import DELIVERIES

READ_ROWS = 10_000
# Below this many attempts a share says little.
MIN_ATTEMPTS_FOR_CIRCUIT = 50


@dataclass(frozen=True)
class Plan:
    """How far one run may go. `is_time_up` answers whether the run's deadline has passed."""

    run_id: str
    epoch: int
    max_rejected_ratio: float
    now: Callable[[], datetime]
    is_time_up: Callable[[], bool]


@dataclass
class SyncCounts:
    """What became of the pending rows; `pending` is the sum of the others but suppressed, which were never pending."""

    pending: int = 0
    delivered: int = 0
    rejected: int = 0
    unchanged: int = 0
    deferred: int = 0
    suppressed: int = 0
    withdrawals: int = 0
    requests: int = 0
    attributes: int = 0
    errors: dict[str, int] = field(default_factory=dict)


def sync(
    warehouse: Warehouse,
    destination: Destination,
    mapping: FieldMapping,
    plan: Plan,
    *,
    announce: Callable[[int], Callable[[int], None]] | None = None,
) -> tuple[SyncCounts, WinbackError | None]:
    """Send what is pending. Returns the counts and, when it had to stop early, why; what is left stays pending.

    `announce` is told how many rows are pending, and what it returns of each batch that is done, for a progress bar.
    """
    counts = SyncCounts(pending=count_pending(warehouse), suppressed=_count_suppressed(warehouse))
    advance = announce(counts.pending) if announce else None
    stopped: WinbackError | None = None
    log = _Log(warehouse, plan)
    changes = _changes(warehouse, mapping, counts)
    while batch := list(islice(changes, destination.max_batch)):
        if plan.is_time_up():
            stopped = RetryableError("The run's time was up before everything was sent; the next run goes on.")
            break
        try:
            for part, outcomes in _send(destination, batch, counts):
                log.write(part, outcomes)
                _count(part, outcomes, counts)
        except (UnavailableError, ContractError) as error:
            stopped = error
            break
        if advance:
            advance(len(batch))
        stopped = _circuit(counts, plan.max_rejected_ratio)
        if stopped:
            break
    log.flush()
    counts.deferred = counts.pending - counts.delivered - counts.rejected - counts.unchanged
    return counts, stopped


def count_pending(warehouse: Warehouse) -> int:
    """How many users' desired state differs from what the CRM acknowledged, dead letters aside."""
    return count(warehouse, warehouse.relation("marts", "crm_pending"))


def _count_suppressed(warehouse: Warehouse) -> int:
    """Users whom the CRM is not told about: erased, or without consent and never mentioned."""
    profiles, acknowledged = (
        warehouse.relation("marts", "crm_profiles"),
        warehouse.relation("marts", "crm_acknowledged"),
    )
    return count(
        warehouse,
        f"{profiles} as p left join {acknowledged} as a on p.user_id = a.user_id where p.is_erased "
        "or (p.voucher_reason = 'no_consent' and p.churn_probability is null and a.acknowledged_at is null)",
    )


def _changes(warehouse: Warehouse, mapping: FieldMapping, counts: SyncCounts) -> Iterator[Change]:
    sql = (
        f"select * from {warehouse.relation('marts', 'crm_pending')} "
        "order by is_withdrawal desc, is_voucher_eligible desc, churn_probability desc nulls last, user_id"
    )
    for rows in warehouse.stream(sql, READ_ROWS):
        for row in rows.to_pylist():
            found = change(row, mapping)
            if found.attributes:
                yield found
            else:
                counts.unchanged += 1


def _send(
    destination: Destination, batch: Sequence[Change], counts: SyncCounts
) -> Iterator[tuple[Sequence[Change], list[Outcome]]]:
    """Send a batch; where the CRM refuses it whole, halve it until the row at fault stands alone."""
    counts.requests += 1
    try:
        outcomes = destination.send(batch)
    except BatchRefusedError as refusal:
        if len(batch) == 1:
            yield batch, [Outcome("rejected", refusal.http_status, refusal.error_code)]
            return
        middle = len(batch) // 2
        yield from _send(destination, batch[:middle], counts)
        yield from _send(destination, batch[middle:], counts)
    else:
        yield batch, outcomes


class _Log:
    """What the CRM said, row by row. A crash before a flush means that its rows are sent once more, to the same effect."""

    def __init__(self, warehouse: Warehouse, plan: Plan) -> None:
        self._warehouse, self._plan = warehouse, plan
        self._rows: list[dict[str, Any]] = []

    def write(self, batch: Sequence[Change], outcomes: Sequence[Outcome]) -> None:
        """Gather the rows of a batch; append when there are enough for the warehouse."""
        attempted_at = self._plan.now()
        self._rows += [
            {
                "run_id": self._plan.run_id,
                "epoch": self._plan.epoch,
                "user_id": sent.external_id,
                "desired_hash": sent.desired_hash,
                "fields_sent": sent.fields_sent,
                "attempted_at": attempted_at,
                "outcome": outcome.kind,
                "http_status": outcome.http_status,
                "error_code": outcome.error_code,
                **(sent.state if outcome.kind == "delivered" else {}),
            }
            for sent, outcome in zip(batch, outcomes, strict=True)
        ]
        if len(self._rows) >= self._warehouse.rows_per_append:
            self.flush()

    def flush(self) -> None:
        """Append what was gathered."""
        if self._rows:
            self._warehouse.append(DELIVERIES, pa.Table.from_pylist(self._rows, schema=DELIVERIES.schema))
            self._rows = []


def _count(batch: Sequence[Change], outcomes: Sequence[Outcome], counts: SyncCounts) -> None:
    for sent, outcome in zip(batch, outcomes, strict=True):
        if outcome.kind == "delivered":
            counts.delivered += 1
            counts.withdrawals += sent.is_withdrawal
            counts.attributes += len(sent.attributes)
        else:
            counts.rejected += 1
            code = outcome.error_code or "unknown"
            counts.errors[code] = counts.errors.get(code, 0) + 1


def _circuit(counts: SyncCounts, max_rejected_ratio: float) -> CircuitOpenError | None:
    attempts = counts.delivered + counts.rejected
    if attempts < MIN_ATTEMPTS_FOR_CIRCUIT or counts.rejected <= max_rejected_ratio * attempts:
        return None
    commonest = max(counts.errors, key=lambda code: counts.errors[code])
    return CircuitOpenError(
        f"The CRM rejected {counts.rejected} of {attempts} users, most with {commonest}. Sending was stopped. "
        "See winback dead-letters; after the cause is mended: winback dead-letters retry"
    )
