"""How does the CRM come to hold the desired state, with nothing counted as delivered that it did not confirm?

Withdrawals first, then the most valuable. Every row ends in one outcome; delivered and rejected rows are logged after the CRM's
own word for them, so a crash between the reply and the log means one more upsert of the same state, never a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

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
    advance: Callable[[int], None] | None = None,
) -> tuple[SyncCounts, WinbackError | None]:
    """Send what is pending. Returns the counts and, when it had to stop early, why; what is left stays pending."""
    counts = SyncCounts(pending=count_pending(warehouse), suppressed=_count_suppressed(warehouse))
    stopped: WinbackError | None = None
    changes = _changes(warehouse, mapping, counts)
    while batch := list(islice(changes, destination.max_batch)):
        if plan.is_time_up():
            stopped = RetryableError("The run's time was up before everything was sent; the next run goes on.")
            break
        try:
            for part, outcomes in _send(destination, batch, counts):
                _log(warehouse, plan, part, outcomes, counts)
        except (UnavailableError, ContractError) as error:
            stopped = error
            break
        if advance:
            advance(len(batch))
        stopped = _circuit(counts, plan.max_rejected_ratio)
        if stopped:
            break
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


def _log(
    warehouse: Warehouse, plan: Plan, batch: Sequence[Change], outcomes: Sequence[Outcome], counts: SyncCounts
) -> None:
    attempted_at = plan.now()
    rows = [
        {
            "run_id": plan.run_id,
            "epoch": plan.epoch,
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
    warehouse.append(DELIVERIES, pa.Table.from_pylist(rows, schema=DELIVERIES.schema))
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
