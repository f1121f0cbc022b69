"""How does a run bring the CRM what differs: build the audience, send, fold what was said, erase whom an erasure overtook?"""

from __future__ import annotations

from datetime import datetime

from core.errors import RetryableError, WinbackError
from core.progress import Advance
from crm_sync.deadline import Deadline
from crm_sync.delivery_log import DeliveryLog
from crm_sync.dry_run import Rehearsal
from crm_sync.suppression import Recheck
from crm_sync.sync import Plan, SyncCounts, sync
from jobs.context import House
from jobs.erasure.erase import CRM_SECONDS, erase_again
from jobs.hourly.lease_guard import Held
from jobs.signals import stopped_by_signals
from jobs.transform.dbt import Transform
from warehouse import ledger


def plan_of(house: House, run_id: str, epoch: ledger.Epoch, started: float, last_audience: int | None) -> Plan:
    """How far the run may go, which began at `started` by the house's monotonic clock."""
    settings = house.settings
    seconds_left = started + settings.run_deadline_seconds - house.monotonic()
    return Plan(
        run_id=run_id,
        epoch=epoch.epoch,
        run=Deadline(run_id, seconds_left, clock=house.monotonic),
        now=house.now,
        recheck=Recheck(house.warehouse, epoch.window_until, house.funnel.outcomes, house.now),
        max_rejected_ratio=settings.max_rejected_ratio,
        min_audience_ratio=settings.min_audience_ratio,
        last_audience=last_audience,
    )


def deliver(
    house: House, held: Held, transform: Transform, plan: Plan, started_at: datetime
) -> tuple[SyncCounts, WinbackError | None]:
    """Bring the audience up to date, send what differs, and fold what the CRM said.

    Raises: OutOfTimeError when a signal stopped it: what was acknowledged is logged, and the next run does the rest.
    """
    house.narrator.step("Building the audience", epoch=plan.epoch)
    held.keep()
    transform.build("audience")
    held.keep()

    def announce(pending: int) -> Advance:
        advance = house.narrator.progress("Sending to the CRM", pending)

        def done(count: int) -> None:
            advance(count)
            try:
                held.keep()
            except RetryableError as lost:
                # No further batch, but what is under way ends and is logged: else nobody would know what the CRM was told.
                plan.run.stop(str(lost))

        return done

    log = DeliveryLog(house.warehouse, plan.run_id, plan.epoch, house.now)
    with stopped_by_signals(plan.run):
        counts, stopped = sync(house.warehouse, house.destination, house.fields, plan, announce=announce, log=log)
    if plan.run.is_stopped:
        plan.run.check()
    if counts.delivered or counts.rejected:
        transform.build("acknowledged")
    # Whom an erasure overtook while a batch was under way, the CRM has anew.
    erase_again(house, started_at, Deadline(plan.run_id, CRM_SECONDS, clock=house.monotonic))
    return counts, stopped


def rehearse(house: House, plan: Plan) -> tuple[SyncCounts, WinbackError | None]:
    """Take the sync's path with a CRM that says yes to everything, and write nothing."""
    if not house.warehouse.exists("marts", "crm_pending"):
        return SyncCounts(), None

    def announce(pending: int) -> Advance:
        return house.narrator.progress("Rehearsing the sync", pending)

    return sync(house.warehouse, Rehearsal(house.destination.max_batch), house.fields, plan, announce=announce)
