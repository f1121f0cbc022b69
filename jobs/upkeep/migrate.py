"""Migrates a warehouse of an earlier version to this one, step by step."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from jobs.context import JobContext
from jobs.hourly.lease_guard import leased
from jobs.transform.shape import refuse_changed
from jobs.upkeep.migrations import STEPS, Step, recorded
from warehouse import ledger
from warehouse.tables import MIGRATIONS

NAMES = tuple(step.name for step in STEPS)


@dataclass(frozen=True)
class Migrated:
    """Steps that were done, or that are left to do if `is_dry_run`: their names and what they do."""

    is_dry_run: bool
    steps: dict[str, str]


def migrate(context: JobContext, *, dry_run: bool = False) -> Migrated:
    """Do every step that is not recorded yet, and record each one; decides and sends nothing.

    After a crash the same command continues with the interrupted step. No run may be active; on BigQuery the migration takes
    the lease.

    Raises: ContractError for a table that cannot be migrated or a changed funnel.yml, RetryableError for a failed build,
    RunInProgressError while a run is active.
    """
    warehouse = context.warehouse
    known = recorded(warehouse)
    # Tables and columns are checked each time, because an older table may have been restored.
    left = [step for step in STEPS if not step.is_of_history or step.name not in known]
    # The watermark may be later than now: its repair needs a warehouse of this version.
    last = ledger.last_epoch(warehouse) if warehouse.exists("ops", "runs") else None
    if last and any(step.is_of_history for step in left):
        refuse_changed(last.funnel, context.funnel)
    if dry_run:
        possible = [step for step in left if last or not step.is_of_history]
        return Migrated(dry_run, {step.name: what for step in possible if (what := step.todo(context))})
    done: dict[str, str] = {}
    # Tables first, because the lease needs ops.leases.
    for step in left:
        if not step.is_of_history:
            _do(context, step, done, is_known=step.name in known)
    check_history = [step for step in left if step.is_of_history]
    if not last:
        record(context, [step.name for step in check_history])
    elif check_history:
        with leased(context, f"{last.epoch:08d}-migrate-{uuid.uuid4().hex[:8]}", last.window_until) as held:
            for step in check_history:
                held.keep()
                _do(context, step, done)
    return Migrated(dry_run, done)


def record(context: JobContext, names: Sequence[str] = NAMES) -> None:
    """Record these steps as done, by default all. Runs accept a warehouse in which all steps are done."""
    if names:
        context.warehouse.create(MIGRATIONS)
        rows = [{"step": name, "migrated_at": context.now()} for name in names]
        context.warehouse.append(MIGRATIONS, pa.Table.from_pylist(rows, schema=MIGRATIONS.schema))


def _do(context: JobContext, step: Step, done: dict[str, str], *, is_known: bool = False) -> None:
    if what := step.todo(context):
        number = 1 + [each.name for each in STEPS].index(step.name)
        context.reporter.step(f"Step {number} of {len(STEPS)}: {what}")
        step.apply(context)
        done[step.name] = what
    if not is_known:
        record(context, [step.name])
