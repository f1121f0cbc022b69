"""Changes the CRM that the tables serve: forgets what the old one acknowledged, or records that it has moved.

A switch is three steps: a row of kind `forgetting` in `ops.crms`, an empty `crm_acknowledged`, and a row of kind `switched`.
Runs refuse a warehouse between the first and the last, and the command repeats what is left. The deliveries stay: those to the
old CRM have a lower number, and no build counts them (warehouse/crms.py).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from core.errors import ContractError
from jobs.context import JobContext
from jobs.erasure.records import unconfirmed
from jobs.hourly.lease_guard import leased
from warehouse import crms, ledger
from warehouse.crms import ServedCrm
from warehouse.interface import count


@dataclass(frozen=True)
class SwitchedCrm:
    """The change of CRM, done or planned. `before` is None if no run has recorded a CRM.

    `count_users` have a state that the old CRM acknowledged, or may hold. `count_erasures` are requested erasures that the old
    CRM has not confirmed.
    """

    before: str | None
    now: str
    is_needed: bool
    is_state_kept: bool
    count_users: int
    count_erasures: int


def plan_switch(context: JobContext, *, keep_state: bool = False, force: bool = False) -> SwitchedCrm:
    """Return what a switch would do; changes nothing.

    Raises: ContractError if the warehouse has no history, or if the state is to be kept and an interrupted switch may have
    forgotten it.
    """
    warehouse = context.warehouse
    if ledger.last_epoch(warehouse) is None:
        raise ContractError(
            "The warehouse has no history yet, and no state to switch. Begin with: winback backfill --until TIME"
        )
    last = crms.newest(warehouse)
    if last and not last.is_complete and keep_state:
        raise ContractError(
            f"A switch to the CRM {last.crm} was interrupted, and the state may be lost: it cannot be kept. "
            "Leave --keep-state out: winback switch-crm"
        )
    open_erasures = unconfirmed(warehouse)
    return SwitchedCrm(
        before=last.crm if last else None,
        now=context.crm,
        is_needed=force or last is None or last.crm != context.crm or not last.is_complete,
        is_state_kept=keep_state,
        count_users=_count_users(context),
        count_erasures=open_erasures.count_users if open_erasures else 0,
    )


def switch_crm(context: JobContext, *, keep_state: bool = False, force: bool = False) -> SwitchedCrm:
    """Make the next run send the whole audience to the CRM of the settings; with `keep_state` only record its address.

    Does nothing if the tables serve that CRM already, unless `force` is true: the account may be another, or the CRM was emptied.
    After a crash the same command does what is left.

    Raises: ContractError as `plan_switch`, RunInProgressError while a run is active, RetryableError if another process changes
    the CRM at the same time.
    """
    last_epoch = ledger.last_epoch(context.warehouse)
    if last_epoch is None:
        return plan_switch(context, keep_state=keep_state, force=force)
    run_id = f"{last_epoch.epoch:08d}-switch-crm-{uuid.uuid4().hex[:8]}"
    with leased(context, run_id, last_epoch.window_until) as held:
        plan = plan_switch(context, keep_state=keep_state, force=force)
        if not plan.is_needed:
            return plan
        last = crms.newest(context.warehouse)
        if keep_state:
            _record(context, last, crms.MOVED)
            return plan
        context.reporter.step("Forgetting what the old CRM acknowledged", count_users=plan.count_users)
        if last is None or last.is_complete or last.crm != context.crm:
            last = _record(context, last, crms.FORGETTING)
        held.keep()
        if context.warehouse.exists("marts", "crm_acknowledged"):
            context.warehouse.change(f"delete from {_acknowledged(context)} where true")
        held.keep()
        _record(context, last, crms.SWITCHED)
    return plan


def _record(context: JobContext, last: ServedCrm | None, kind: str) -> ServedCrm:
    # Without a record all deliveries count as made to number 0.
    number = last.number + 1 if last else 1
    kept = last.state_from if last else 0
    state_from = number if kind == crms.FORGETTING else kept
    return crms.adopt(context.warehouse, ServedCrm(number, context.crm, context.now(), state_from, kind))


def _count_users(context: JobContext) -> int:
    if not context.warehouse.exists("marts", "crm_acknowledged"):
        return 0
    return count(context.warehouse, f"{_acknowledged(context)} where acknowledged_at is not null or is_in_doubt")


def _acknowledged(context: JobContext) -> str:
    return context.warehouse.relation("marts", "crm_acknowledged")
