"""The sync: brings the CRM to the desired state, and counts as delivered only what the CRM confirmed.

It sends withdrawals first, then the most valuable users. Every row ends in one outcome. Rows are logged before they are sent,
and outcomes after the CRM has returned them. A crash in between leaves rows in doubt: the next run sends them with every field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from core.errors import WinbackError
from crm_sync.audience_guard import check_audience_drop, count_audience
from crm_sync.batches import Batch, Sent, batches, send
from crm_sync.deadline import Deadline
from crm_sync.delivery_log import DeliveryLog
from crm_sync.destination import DeadlineExceededError, Destination, Outcome
from crm_sync.diff import Change, Changed, changes
from crm_sync.field_mapping import FieldMapping
from crm_sync.outcomes import (
    UNSENDABLE,
    SyncCounts,
    add,
    crm_rejections_breaker,
    none_taken_breaker,
    record_outcomes,
    unsendable_breaker,
    why_deferred,
)
from crm_sync.refusals import Refusals, Taken
from crm_sync.suppression import Recheck, suppressed
from crm_sync.workers import Workers
from warehouse.interface import Reader, Warehouse

__all__ = ["Plan", "SyncCounts", "count_differing", "count_pending", "sync"]

READ_ROWS = 10_000
# How long requests in flight may continue when the run's time is up or it was stopped. With the log's flush it must end within
# 8 s.
GRACE_SECONDS = 3.0
SAMPLES = 3


@dataclass(frozen=True)
class Plan:
    """Limits of one run.

    `run` says when to end. `last_audience` is the size of the last run's audience; None: unknown, or not to be checked.
    """

    run_id: str
    epoch: int
    run: Deadline
    now: Callable[[], datetime]
    recheck: Recheck
    max_rejected_ratio: float
    min_audience_ratio: float = 0.0
    last_audience: int | None = None


def count_pending(warehouse: Reader) -> int:
    """Number of users to send: their desired and acknowledged state differ, and they are not suppressed."""
    return count_differing(warehouse).get(None, 0)


def count_differing(warehouse: Reader) -> dict[str | None, int]:
    """Number of users whose desired and acknowledged state differ, by the reason for suppression; None: to be sent."""
    view = warehouse.relation("marts", "crm_pending")
    sql = f"select suppressed_because, count(*) as n from {view} group by suppressed_because"
    return {row["suppressed_because"]: int(row["n"]) for row in warehouse.query(sql).to_pylist()}


def sync(
    warehouse: Warehouse,
    destination: Destination,
    mapping: FieldMapping,
    plan: Plan,
    *,
    announce: Callable[[int], Callable[[int], None]] | None = None,
    log: DeliveryLog | None = None,
) -> tuple[SyncCounts, WinbackError | None]:
    """Send the pending rows. Returns the counts and, if it stopped early, the error; rows not sent stay pending.

    `announce` is called with the number of pending rows. The function it returns is called with the size of each finished batch,
    for a progress bar. `log` receives the outcomes; without one, samples of what was sent are kept instead.
    """
    return _Sync(warehouse, destination, mapping, plan, log).run(announce)


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
        self.taken, self.refusals = Taken(), Refusals()
        # Remainders of batches, until it is known whether users or requests are at fault.
        self.doubtful: list[Batch] = []
        self.streamed = self.held_back = 0
        self.grace_seconds = GRACE_SECONDS
        self.stopped: WinbackError | None = None

    def run(self, announce: Callable[[int], Callable[[int], None]] | None) -> tuple[SyncCounts, WinbackError | None]:
        counts = self.counts
        pending = self._count_differing()
        counts.audience = count_audience(self.warehouse)
        self.stopped = check_audience_drop(counts.audience, self.plan.last_audience, self.plan.min_audience_ratio)
        advance = announce(pending) if announce else lambda _: None
        if not self.stopped:
            self._send_all(advance)
        self._settle_accounts(pending)
        ratio = self.plan.max_rejected_ratio
        self.stopped = (
            self.stopped or crm_rejections_breaker(counts, ratio, is_at_end=True) or unsendable_breaker(counts, ratio)
        )
        self.stopped = self.stopped or none_taken_breaker(counts)
        return counts, self.stopped

    def _settle_accounts(self, pending: int) -> None:
        """Count rows without an outcome as deferred, with the reason why the run stopped."""
        counts = self.counts
        # Another run may have changed the view between counting and reading: use the number of rows read.
        counts.differing = self.held_back + (max(pending, self.streamed) if self.stopped else self.streamed)
        left = counts.differing - counts.settled - sum(counts.deferred.values())
        add(counts.deferred, why_deferred(self.stopped), left)

    def _count_differing(self) -> int:
        """Count the rows and the suppressed ones among them. Returns the number to send."""
        by_reason = count_differing(self.warehouse)
        pending = by_reason.pop(None, 0)
        for reason, number in by_reason.items():
            add(self.counts.suppressed, str(reason), number)
        self.held_back = sum(by_reason.values())
        return pending

    def _send_all(self, advance: Callable[[int], None]) -> None:
        def act(batch: Batch) -> Sent:
            return send(self.destination, batch, self.plan.run, self.taken)

        try:
            with Workers(act, self.destination.max_in_flight) as workers:
                self._send_in_order(workers, advance)
        finally:
            if self.log:
                self.log.flush()

    def _send_in_order(self, workers: Workers[Batch, Sent], advance: Callable[[int], None]) -> None:
        withdrawing = True
        for changed in self._changed():
            if self.log:
                self.log.intend(changed)
            self._set_aside(changed)
            for batch in batches(changed, self.destination.max_batch):
                if withdrawing and not batch.is_withdrawal:
                    # Wait for the replies to all withdrawals before the first grant is sent.
                    self._drain(workers, advance)
                    withdrawing = False
                self._settle(workers, advance, lambda: workers.is_full)
                if self.refusals.error:
                    self._drain(workers, advance)
                if not self.stopped:
                    workers.submit(batch)
                elif self.log:
                    self.log.forgo(batch.changes, batch.states)
            if self.stopped:
                break
        self._drain(workers, advance)
        self._judge_refused()

    def _drain(self, workers: Workers[Batch, Sent], advance: Callable[[int], None]) -> None:
        """Wait for all batches in flight. Send the remainders of batches once it is known that users are at fault."""
        self._settle(workers, advance, lambda: workers.in_flight > 0)
        while self.doubtful and not self.stopped and not self.refusals.error:
            workers.submit(self.doubtful.pop())
            self._settle(workers, advance, lambda: workers.in_flight > 0)
        self.stopped = self.stopped or self.refusals.error

    def _judge_refused(self) -> None:
        """At the end, reject the few users refused alone. If the run had to stop, they stay pending."""
        for each in (*self.refusals.release(True), *self.refusals.release(False)):
            if not self.stopped:
                self._record([each.change], each.states, [each.outcome])
            elif self.log:
                self.log.forgo([each.change], each.states)
        if self.log:
            for batch in self.doubtful:
                self.log.forgo(batch.changes, batch.states)
        self.stopped = self.stopped or crm_rejections_breaker(self.counts, self.plan.max_rejected_ratio)

    def _changed(self) -> Iterator[Changed]:
        sql = (
            f"select * from {self.warehouse.relation('marts', 'crm_pending')} where suppressed_because is null "
            "order by is_withdrawal desc, is_voucher_eligible desc, churn_probability desc nulls last, user_id"
        )
        for rows in self.warehouse.stream(sql, READ_ROWS):
            self.streamed += rows.num_rows
            told, reasons = suppressed(rows, self.plan.recheck.news())
            for reason, number in reasons.items():
                add(self.counts.suppressed, reason, number)
            changed = changes(told, self.mapping)
            self.counts.unchanged += told.num_rows - len(changed.changes) - len(changed.unsendable)
            yield changed

    def _set_aside(self, changed: Changed) -> None:
        """Make dead letters of unsendable rows. None of them was sent, so they are not in doubt."""
        rejected = [change for change, _ in changed.unsendable]
        outcomes = [
            Outcome("rejected", code=UNSENDABLE, reason=f"not sent: the value of {name} cannot be sent to a CRM")
            for _, name in changed.unsendable
        ]
        if self.log:
            self.log.write(rejected, changed.states, outcomes)
        record_outcomes(rejected, outcomes, self.counts)

    def _settle(
        self, workers: Workers[Batch, Sent], advance: Callable[[int], None], is_waiting: Callable[[], bool]
    ) -> None:
        """Handle finished batches while `is_waiting`. A run that must end waits for the grace period only."""
        while is_waiting():
            sent = workers.next(0.1)
            if sent:
                self._take(sent)
                advance(len(sent.batch.changes) - len(sent.rest))
            elif self.plan.run.is_over:
                self.grace_seconds -= 0.1
                if self.grace_seconds <= 0:
                    break
        self._stop_if_due()

    def _take(self, sent: Sent) -> None:
        self.counts.requests += sent.requests
        kind, states = sent.batch.is_withdrawal, sent.batch.states
        for part, outcomes in sent.parts:
            self._record(part, states, outcomes)
        self.refusals.hold(kind, sent.alone)
        for each in self.refusals.release(kind) if kind in self.taken else ():
            self._record([each.change], each.states, [each.outcome])
        if sent.rest:
            self.doubtful.append(Batch(sent.rest, states))
        if sent.error and not self.stopped:
            self.stopped = sent.error
        self.stopped = self.stopped or crm_rejections_breaker(self.counts, self.plan.max_rejected_ratio)

    def _record(self, part: Sequence[Change], states: pa.RecordBatch, outcomes: list[Outcome]) -> None:
        if self.log:
            self.log.write(part, states, outcomes)
        elif len(self.counts.samples) < SAMPLES:
            self.counts.samples += [dict(change.attributes) for change in part[: SAMPLES - len(self.counts.samples)]]
        record_outcomes(part, outcomes, self.counts)

    def _stop_if_due(self) -> None:
        if not self.stopped:
            try:
                self.plan.run.check()
            except DeadlineExceededError as error:
                self.stopped = error
