"""Brings a warehouse of an earlier version to this one."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import pyarrow as pa

from jobs.house import House
from jobs.leasing import leased
from jobs.migrations import STEPS, is_migrated
from warehouse import ledger
from warehouse.tables import MIGRATIONS


@dataclass(frozen=True)
class Migrated:
    """What was done, or is left to do where `is_dry_run`: the step's name and what it does."""

    is_dry_run: bool
    steps: dict[str, str]


def migrate(house: House, *, dry_run: bool = False) -> Migrated:
    """Do every step that is left to do, and record it; nothing is decided or sent.

    Killed anywhere, the same command goes on: a step finds out by itself what is left. No run may be at work; on BigQuery the
    migration takes the lease.

    Raises: ContractError for a table that cannot be brought along, RetryableError for a failing build, BusyError while a run is
    at work.
    """
    if is_migrated(house):
        return Migrated(dry_run, {})
    steps = {}
    # Tables first: whether there is a history is asked of them.
    for step in (step for step in STEPS if not step.is_of_history):
        if what := step.todo(house):
            steps[step.name] = what
            if not dry_run:
                house.narrator.step(f"Migrating: {what}")
                step.apply(house)
    warehouse = house.warehouse
    last = ledger.last_epoch(warehouse) if warehouse.exists("ops", "runs") else None
    if dry_run:
        if last:
            steps |= {step.name: what for step in STEPS if step.is_of_history and (what := step.todo(house))}
        return Migrated(dry_run, steps)
    if last:
        with leased(house, f"{last.epoch:08d}-migrate-{uuid.uuid4().hex[:8]}", last.window_until):
            for step in (step for step in STEPS if step.is_of_history):
                if what := step.todo(house):
                    steps[step.name] = what
                    house.narrator.step(f"Migrating: {what}")
                    step.apply(house)
    record(house)
    return Migrated(dry_run, steps)


def record(house: House) -> None:
    """Write down that this version made the warehouse, or brought it along: from now on runs accept it."""
    house.warehouse.create(MIGRATIONS)
    rows = [{"step": step.name, "migrated_at": house.now()} for step in STEPS]
    house.warehouse.append(MIGRATIONS, pa.Table.from_pylist(rows, schema=MIGRATIONS.schema))
