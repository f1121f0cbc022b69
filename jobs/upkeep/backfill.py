"""Backfill: builds everything loaded before a time as the first epoch; decides and sends nothing."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from core.clock import UNIX_EPOCH
from core.errors import ContractError
from jobs.context import JobContext, not_in_the_future
from jobs.transform.dbt import Window
from jobs.transform.shape import written
from jobs.upkeep.migrate import record
from jobs.upkeep.profile_coverage import Coverage, coverage_of_exits
from warehouse import crms, ledger
from warehouse.interface import count


@dataclass(frozen=True)
class Backfilled:
    """Summary of the history; counts of rows."""

    until: datetime
    count_events: int
    count_sessions: int
    count_exits: int
    profiles: Coverage


def backfill(context: JobContext, until: datetime) -> Backfilled:
    """Build every model over history up to `until` (UTC) and commit it as the first epoch.

    May be repeated until it has committed: after a crash the next try rebuilds the tables.

    Raises: ContractError if history is committed already, or there are no events; WatermarkAheadError.
    """
    ledger.refuse_ahead(ledger.last_epoch(context.warehouse), context.now())
    committed = ledger.first_epoch(context.warehouse)
    if committed:
        raise ContractError(
            f"History up to {committed.window_until:%Y-%m-%d %H:%M} is committed already. Go on with: winback run"
        )
    not_in_the_future(context, until)
    record(context)  # first, because a backfill that was killed may be repeated
    result = build_history(context, until)
    ledger.commit(
        context.warehouse,
        ledger.Epoch(
            epoch=0,
            run_id=f"00000000-backfill-{uuid.uuid4().hex[:8]}",
            kind="backfill",
            window_from=UNIX_EPOCH,
            window_until=until,
            count_exits=0,
            count_scored=0,
            count_skipped=0,
            count_eligible=0,
            committed_at=context.now(),
            funnel=written(context.funnel),
        ),
    )
    if result.profiles.warning:
        context.reporter.warn(result.profiles.warning)
    return result


def build_history(context: JobContext, until: datetime) -> Backfilled:
    """Build every model over history up to `until` (UTC), and commit nothing.

    Raises: ContractError if no event was loaded before then.
    """
    since = crms.state_from(context.warehouse)
    window = Window(from_at=UNIX_EPOCH, until_at=until, history_until=until, crm_since=since)
    context.reporter.step("Building history", window_until=until)
    context.transform(window).build("backfill", full_refresh=True)

    relation = context.warehouse.relation
    result = Backfilled(
        until=until,
        count_events=count(context.warehouse, relation("intermediate", "int_events__deduplicated")),
        count_sessions=count(context.warehouse, relation("intermediate", "int_sessions") + " where not is_dissolved"),
        count_exits=count(context.warehouse, relation("marts", "fct_unfinished_exits") + " where not is_dissolved"),
        profiles=coverage_of_exits(context.warehouse),
    )
    if not result.count_events:
        raise ContractError(
            f"No event was loaded before {until:%Y-%m-%d %H:%M} UTC. Load some first: winback load --events FILE --users FILE"
        )
    return result
