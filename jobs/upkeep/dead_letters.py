"""Dead letters: users that the CRM rejected, by reason, and how to send them again."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pyarrow as pa

from jobs.context import JobContext
from jobs.crm_state.check import check_crm
from jobs.transform.dbt import Window
from warehouse import ledger
from warehouse.tables import DELIVERIES


def listed(context: JobContext) -> list[dict[str, Any]]:
    """Return one row per code: a reason from the CRM, the number of users, first and last time. No ids."""
    if not context.warehouse.exists("marts", "crm_acknowledged"):
        return []
    rows: list[dict[str, Any]] = context.warehouse.query(
        f"""
        select
            rejected_code, min(rejected_reason) as reason, count(*) as count_users,
            min(rejected_at) as first_at, max(rejected_at) as last_at
        from {context.warehouse.relation("marts", "crm_acknowledged")}
        where rejected_hash is not null
        group by rejected_code
        order by count_users desc, rejected_code
        """
    ).to_pylist()
    return rows


def retry(context: JobContext) -> int:
    """Mark every dead letter to be sent again by the next run; returns how many.

    Raises: ContractError if the settings name another CRM than the one that rejected them.
    """
    epoch = ledger.last_epoch(context.warehouse)
    if epoch is None or not context.warehouse.exists("marts", "crm_acknowledged"):
        return 0
    crm = check_crm(context)
    dead = context.warehouse.query(
        f"""
        select user_id, rejected_hash as desired_hash
        from {context.warehouse.relation("marts", "crm_acknowledged")}
        where rejected_hash is not null
        """
    )
    if not dead.num_rows:
        return 0
    run_id, now = f"{epoch.epoch:08d}-retry-{uuid.uuid4().hex[:8]}", context.now()
    wishes = [
        {
            **row,
            "run_id": run_id,
            "epoch": epoch.epoch,
            "fields_sent": "",
            "attempted_at": now,
            "outcome": "retry",
            "crm_number": crm.number,
        }
        for row in dead.to_pylist()
    ]
    context.warehouse.append(DELIVERIES, pa.Table.from_pylist(wishes, schema=DELIVERIES.schema))
    until = epoch.window_until
    yesterday = now - timedelta(days=1)
    window = Window(until, until, until, fold_from_epoch=epoch.epoch, fold_from_at=yesterday, crm_since=crm.state_from)
    context.transform(window).build("acknowledged")
    return len(wishes)
