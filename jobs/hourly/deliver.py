"""Delivery to the CRM: build the audience, send the differences, fold the outcomes, repeat overtaken erasures."""

from __future__ import annotations

from datetime import datetime

from core.errors import RetryableError, WinbackError
from core.progress import Advance
from crm_sync.deadline import Deadline
from crm_sync.delivery_log import DeliveryLog
from crm_sync.dry_run import DryRunDestination
from crm_sync.suppression import Recheck
from crm_sync.sync import Plan, SyncCounts, sync
from jobs.context import JobContext
from jobs.erasure.erase import CRM_SECONDS, re_erase_recent
from jobs.hourly.lease_guard import LeaseGuard
from jobs.signals import stop_on_signals
from jobs.transform.dbt import Transform
from warehouse import ledger


def make_sync_plan(
    context: JobContext, run_id: str, epoch: ledger.Epoch, started: float, last_audience: int | None
) -> Plan:
    """Return the limits of the sync for a run that began at `started` (monotonic clock of the context)."""
    settings = context.settings
    seconds_left = started + settings.run_deadline_seconds - context.monotonic()
    return Plan(
        run_id=run_id,
        epoch=epoch.epoch,
        run=Deadline(run_id, seconds_left, clock=context.monotonic),
        now=context.now,
        recheck=Recheck(context.warehouse, epoch.window_until, context.funnel.outcomes, context.now),
        max_rejected_ratio=settings.max_rejected_ratio,
        min_audience_ratio=settings.min_audience_ratio,
        last_audience=last_audience,
    )


def deliver(
    context: JobContext, held: LeaseGuard, transform: Transform, plan: Plan, started_at: datetime, *, crm_number: int
) -> tuple[SyncCounts, WinbackError | None]:
    """Update the audience, send the differences, and fold the outcomes that the CRM returned.

    `crm_number` is the number of the CRM in ops.crms.

    Raises: DeadlineExceededError if a signal stopped the sync. Acknowledged rows are logged, and the next run sends the rest.
    """
    context.reporter.step("Building the audience", epoch=plan.epoch)
    held.keep()
    transform.build("audience")
    held.keep()

    def announce(pending: int) -> Advance:
        advance = context.reporter.progress("Sending to the CRM", pending)

        def done(count: int) -> None:
            advance(count)
            try:
                held.keep()
            except RetryableError as lost:
                # Send no further batch. The current one ends and is logged, so that the log shows what the CRM received.
                plan.run.stop(str(lost))

        return done

    log = DeliveryLog(context.warehouse, plan.run_id, plan.epoch, context.now, crm_number=crm_number)
    with stop_on_signals(plan.run):
        counts, stopped = sync(context.warehouse, context.destination, context.fields, plan, announce=announce, log=log)
    if plan.run.is_stopped:
        plan.run.check()
    if counts.delivered or counts.rejected:
        transform.build("acknowledged")
    # A batch in flight may have re-created users who were erased meanwhile; erase them again.
    re_erase_recent(context, started_at, Deadline(plan.run_id, CRM_SECONDS, clock=context.monotonic))
    return counts, stopped


def rehearse(context: JobContext, plan: Plan) -> tuple[SyncCounts, WinbackError | None]:
    """Run the sync with a destination that accepts everything, and write nothing."""
    if not context.warehouse.exists("marts", "crm_pending"):
        return SyncCounts(), None

    def announce(pending: int) -> Advance:
        return context.reporter.progress("Simulating the sync", pending)

    return sync(
        context.warehouse, DryRunDestination(context.destination.max_batch), context.fields, plan, announce=announce
    )
