"""How does the CRM come to hold the desired state, with nothing counted as delivered that it did not confirm?

Withdrawals first, then the most valuable. Every row ends in one outcome. What is about to be sent is written down first, and
outcomes after the CRM's own word for them; a crash in between leaves rows in doubt, which the next run sends with every field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from crm_sync.audience import collapse, count_audience
from crm_sync.changes import Change, Changed, changes
from crm_sync.deadline import Deadline
from crm_sync.delivery_log import DeliveryLog
from crm_sync.destination import BatchRefusedError, Destination, Outcome, OutOfTimeError, Run, UnavailableError
from crm_sync.fields import FieldMapping
from crm_sync.recheck import Recheck, suppressed
from crm_sync.redaction import redacted
from crm_sync.workers import Workers
from warehouse.errors import CircuitOpenError, ContractError, WinbackError
from warehouse.interface import Warehouse, count

READ_ROWS = 10_000
# Below this many attempts a share says little.
MIN_ATTEMPTS_FOR_CIRCUIT = 50
# How long requests under way may still take when the run is told to stop: with the log's flush it must leave within 8 s.
GRACE_SECONDS = 3.0
# So many users refused one by one, and none taken: it is not they who are at fault, and the rest of a batch need not be halved.
MAX_REFUSED_ALONE = 50
SAMPLES = 3


@dataclass(frozen=True)
class Plan:
    """How far one run may go.

    `run` says when to leave. `last_audience` is how many users the last run's audience held; None: not known, or not to be asked.
    """

    run_id: str
    epoch: int
    run: Deadline
    now: Callable[[], datetime]
    recheck: Recheck
    max_rejected_ratio: float
    min_audience_ratio: float = 0.0
    last_audience: int | None = None


@dataclass
class SyncCounts:
    """What became of the rows in which desired and acknowledged state differ: each is in exactly one of the five outcomes.

    `suppressed` and `deferred` are by reason, `errors` are the rejected by code.
    """

    differing: int = 0
    delivered: int = 0
    unchanged: int = 0
    rejected: int = 0
    suppressed: dict[str, int] = field(default_factory=dict)
    deferred: dict[str, int] = field(default_factory=dict)
    withdrawals: int = 0
    requests: int = 0
    attributes: int = 0
    audience: int | None = None
    errors: dict[str, int] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether every row ended in one outcome."""
        settled = self.delivered + self.unchanged + self.rejected
        return self.differing == settled + sum(self.suppressed.values()) + sum(self.deferred.values())


def count_pending(warehouse: Warehouse) -> int:
    """How many users wait to be sent: their desired state differs from what the CRM acknowledged, and they may be told."""
    return count(warehouse, f"{warehouse.relation('marts', 'crm_pending')} where suppressed_because is null")


def sync(
    warehouse: Warehouse,
    destination: Destination,
    mapping: FieldMapping,
    plan: Plan,
    *,
    announce: Callable[[int], Callable[[int], None]] | None = None,
    log: DeliveryLog | None = None,
) -> tuple[SyncCounts, WinbackError | None]:
    """Send what is pending. Returns the counts and, when it had to stop early, why; what is left stays pending.

    `announce` is told how many rows are pending, and what it returns of each batch that is done, for a progress bar. `log` is
    where outcomes are written down; without one, samples of what was sent are kept instead.
    """
    return _Sync(warehouse, destination, mapping, plan, log).run(announce)


@dataclass(frozen=True)
class _Batch:
    """Changes to be sent together, of rows of `states`."""

    changes: Sequence[Change]
    states: pa.RecordBatch

    @property
    def is_withdrawal(self) -> bool:
        return self.changes[0].is_withdrawal


@dataclass
class _Sent:
    """What became of a batch: parts with outcomes, and why the rest has none."""

    batch: _Batch
    parts: list[tuple[Sequence[Change], list[Outcome]]] = field(default_factory=list)
    requests: int = 0
    error: WinbackError | None = None


class _Sync:
    def __init__(
        self,
        warehouse: Warehouse,
        destination: Destination,
        mapping: FieldMapping,
        plan: Plan,
        log: DeliveryLog | None,
    ) -> None:
        self.warehouse, self.destination, self.mapping, self.plan, self.log = warehouse, destination, mapping, plan, log
        self.counts = SyncCounts()
        self.streamed = self.held_back = 0
        self.grace_seconds = GRACE_SECONDS
        self.stopped: WinbackError | None = None

    def run(self, announce: Callable[[int], Callable[[int], None]] | None) -> tuple[SyncCounts, WinbackError | None]:
        counts = self.counts
        pending = self._count_differing()
        counts.audience = count_audience(self.warehouse)
        self.stopped = collapse(counts.audience, self.plan.last_audience, self.plan.min_audience_ratio)
        advance = announce(pending) if announce else lambda _: None
        if not self.stopped:
            self._send_all(advance)
        self._settle_accounts(pending)
        return counts, self.stopped

    def _settle_accounts(self, pending: int) -> None:
        """Whatever of the rows has no outcome is deferred, and the reason is why the run stopped."""
        counts = self.counts
        # Another run may have changed the view between counting and reading: what was read is right.
        counts.differing = self.held_back + (max(pending, self.streamed) if self.stopped else self.streamed)
        settled = counts.delivered + counts.unchanged + counts.rejected + sum(counts.suppressed.values())
        _add(counts.deferred, _why(self.stopped), counts.differing - settled - sum(counts.deferred.values()))

    def _count_differing(self) -> int:
        """Count the rows, and those of them that may not be told; returns how many are to be sent."""
        view = self.warehouse.relation("marts", "crm_pending")
        sql = f"select suppressed_because, count(*) as n from {view} group by suppressed_because"
        by_reason = {row["suppressed_because"]: int(row["n"]) for row in self.warehouse.query(sql).to_pylist()}
        pending = by_reason.pop(None, 0)
        self.counts.suppressed.update(by_reason)
        self.held_back = sum(by_reason.values())
        return pending

    def _send_all(self, advance: Callable[[int], None]) -> None:
        def act(batch: _Batch) -> _Sent:
            return send(self.destination, batch, self.plan.run)

        try:
            with Workers(act, self.destination.max_in_flight) as workers:
                self._send_in_order(workers, advance)
        finally:
            if self.log:
                self.log.flush()

    def _send_in_order(self, workers: Workers[_Batch, _Sent], advance: Callable[[int], None]) -> None:
        withdrawing = True
        for changed in self._changed():
            if self.log:
                self.log.intend(changed)
            for batch in self._batches(changed):
                if withdrawing and not batch.is_withdrawal:
                    # Every withdrawal has its answer before the first grant goes out.
                    self._settle(workers, advance, lambda: workers.in_flight > 0)
                    withdrawing = False
                self._settle(workers, advance, lambda: workers.is_full)
                if not self.stopped:
                    workers.submit(batch)
                elif self.log:
                    self.log.forgo(batch.changes, batch.states)
            if self.stopped:
                break
        self._settle(workers, advance, lambda: workers.in_flight > 0)

    def _changed(self) -> Iterator[Changed]:
        sql = (
            f"select * from {self.warehouse.relation('marts', 'crm_pending')} where suppressed_because is null "
            "order by is_withdrawal desc, is_voucher_eligible desc, churn_probability desc nulls last, user_id"
        )
        for rows in self.warehouse.stream(sql, READ_ROWS):
            self.streamed += rows.num_rows
            told, reasons = suppressed(rows, self.plan.recheck.news())
            for reason, number in reasons.items():
                _add(self.counts.suppressed, reason, number)
            changed = changes(told, self.mapping)
            self.counts.unchanged += told.num_rows - len(changed.changes)
            yield changed

    def _batches(self, changed: Changed) -> Iterator[_Batch]:
        """Cut changes into batches of withdrawals and batches of the rest."""
        found, size = changed.changes, self.destination.max_batch
        grants_from = next((i for i, change in enumerate(found) if not change.is_withdrawal), len(found))
        for part in (found[:grants_from], found[grants_from:]):
            for start in range(0, len(part), size):
                yield _Batch(part[start : start + size], changed.states)

    def _settle(
        self, workers: Workers[_Batch, _Sent], advance: Callable[[int], None], is_waiting: Callable[[], bool]
    ) -> None:
        """Take in what is ready, and wait for more while there is reason to; told to stop, no longer than the grace lasts."""
        while is_waiting():
            sent = workers.next(0.1)
            if sent:
                self._take(sent)
                advance(len(sent.batch.changes))
            elif self.plan.run.is_stopped:
                self.grace_seconds -= 0.1
                if self.grace_seconds <= 0:
                    break
        self._stop_if_due()

    def _take(self, sent: _Sent) -> None:
        self.counts.requests += sent.requests
        for part, outcomes in sent.parts:
            if self.log:
                self.log.write(part, sent.batch.states, outcomes)
            elif len(self.counts.samples) < SAMPLES:
                self.counts.samples += [
                    dict(change.attributes) for change in part[: SAMPLES - len(self.counts.samples)]
                ]
            _count(part, outcomes, self.counts)
        if sent.error and not self.stopped:
            self.stopped = sent.error
        self.stopped = self.stopped or _circuit(self.counts, self.plan.max_rejected_ratio)

    def _stop_if_due(self) -> None:
        if not self.stopped:
            try:
                self.plan.run.check()
            except OutOfTimeError as error:
                self.stopped = error


def send(destination: Destination, batch: _Batch, run: Run) -> _Sent:
    """Send a batch; where the CRM refuses it whole, halve it until the row at fault stands alone."""
    sent = _Sent(batch)
    parts = [batch.changes]
    refused_alone = 0
    try:
        while parts:
            part = parts.pop()
            sent.requests += 1
            try:
                sent.parts.append((part, destination.send(part, run)))
            except BatchRefusedError as refusal:
                middle = len(part) // 2
                if middle:
                    parts += [part[middle:], part[:middle]]
                else:
                    # The sentence was about the batch: only here is it known whom it may name.
                    reason = refusal.reason and redacted(refusal.reason, part[0].external_id)
                    outcome = Outcome("rejected", refusal.http_status, refusal.code, reason)
                    sent.parts.append((part, [outcome]))
                    refused_alone += 1
                    if refused_alone == len(sent.parts) == MAX_REFUSED_ALONE:
                        raise CircuitOpenError(
                            f"The CRM refused {refused_alone} users one by one with {refusal.code}, and took none of their "
                            "batch. Sending was stopped. See winback dead-letters; after the cause is mended: winback "
                            "dead-letters retry"
                        ) from None
    except (UnavailableError, OutOfTimeError, ContractError, CircuitOpenError) as error:
        sent.error = error
    return sent


def _add(counts: dict[str, int], reason: str, number: int) -> None:
    if number:
        counts[reason] = counts.get(reason, 0) + number


def _why(stopped: WinbackError | None) -> str:
    """Why what is left was not sent."""
    if isinstance(stopped, UnavailableError | OutOfTimeError):
        return stopped.code
    if isinstance(stopped, CircuitOpenError):
        return "circuit_open"
    return "stopped" if stopped else "unconfirmed"


def _count(batch: Sequence[Change], outcomes: Sequence[Outcome], counts: SyncCounts) -> None:
    for sent, outcome in zip(batch, outcomes, strict=True):
        if outcome.kind == "delivered":
            counts.delivered += 1
            counts.withdrawals += sent.is_withdrawal
            counts.attributes += len(sent.attributes)
        elif outcome.kind == "rejected":
            counts.rejected += 1
            _add(counts.errors, outcome.code or "unknown", 1)
        else:
            _add(counts.deferred, outcome.code or "unconfirmed", 1)


def _circuit(counts: SyncCounts, max_rejected_ratio: float) -> CircuitOpenError | None:
    attempts = counts.delivered + counts.rejected
    if attempts < MIN_ATTEMPTS_FOR_CIRCUIT or counts.rejected <= max_rejected_ratio * attempts:
        return None
    commonest = max(counts.errors, key=lambda code: counts.errors[code])
    return CircuitOpenError(
        f"The CRM rejected {counts.rejected} of {attempts} users, most with {commonest}. Sending was stopped. "
        "See winback dead-letters; after the cause is mended: winback dead-letters retry"
    )
