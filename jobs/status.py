"""State of the warehouse: watermark, last runs, pending and rejected users, open erasures, models, last audit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from crm_sync.sync import count_differing
from jobs.context import JobContext
from jobs.erasure.records import UnconfirmedErasures, unconfirmed
from jobs.models.lifecycle import Aliases, aliases
from jobs.transform.watermark import stale
from jobs.upkeep.audit import LastAudit, last_audit
from jobs.upkeep.missed_rows import NightRow, last_night
from warehouse import ledger
from warehouse.interface import count
from warehouse.tables import AUDITS, ERASURES, NIGHTS, REPORTS, RUNS


@dataclass(frozen=True)
class Status:
    """The state of the tables; times UTC. `watermark_problem` explains the problem if one of the two flags is set.

    `demo` is the next step for the warehouse of a demo, whose clock is not this machine's. `pending` users differ in the CRM, and
    the next run sends them. `suppressed` users, by reason, differ too, but nothing may be sent for them. A run whose window has
    no new hour finds the same numbers.
    """

    watermark: datetime | None
    is_watermark_ahead: bool
    is_watermark_stale: bool
    watermark_problem: str | None
    demo: str | None
    count_epochs: int
    model_version: str | None
    models: Aliases
    pending: int
    suppressed: dict[str, int]
    dead_letters: int
    voucher_eligible: int
    unconfirmed_erasures: UnconfirmedErasures | None
    last_audit: LastAudit | None
    last_night: NightRow | None
    epochs: list[ledger.Epoch]
    reports: list[ledger.Report]


def status(context: JobContext, *, last: int = 5) -> Status:
    """Read the state without changing anything. A table that is not there yet counts as empty."""
    warehouse, models = context.warehouse, aliases(context.settings)
    absent = warehouse.absent()
    epochs, now = [] if RUNS in absent else ledger.epochs(warehouse, last), context.now()
    newest = epochs[0] if epochs else None
    ahead = ledger.ahead(newest, now) if newest and newest.clock_at > now else None
    old = stale(warehouse, newest, now, context.settings.max_watermark_age_seconds)
    is_demo = old is not None and old.is_demo

    def users(name: str, where: str) -> int:
        if not warehouse.exists("marts", name):
            return 0
        return count(warehouse, f"{warehouse.relation('marts', name)} where {where}")

    differing = count_differing(warehouse) if warehouse.exists("marts", "crm_pending") else {}
    return Status(
        watermark=newest.window_until if newest else None,
        is_watermark_ahead=ahead is not None,
        is_watermark_stale=old is not None and not is_demo,
        watermark_problem=f"{ahead} {ledger.REMEDY}" if ahead else old.told if old and not is_demo else None,
        demo=old.told if old and is_demo else None,
        count_epochs=epochs[0].epoch + 1 if epochs else 0,
        model_version=models.on_disk if models.problem else models.champion,
        models=models,
        pending=differing.pop(None, 0),
        suppressed={str(reason): number for reason, number in differing.items()},
        dead_letters=users("crm_acknowledged", "rejected_hash is not null"),
        voucher_eligible=users("crm_profiles", "is_voucher_eligible"),
        unconfirmed_erasures=None if ERASURES in absent else unconfirmed(warehouse),
        last_audit=None if AUDITS in absent else last_audit(warehouse),
        last_night=None if NIGHTS in absent else last_night(warehouse),
        epochs=epochs,
        reports=[] if REPORTS in absent else ledger.reports(warehouse, last),
    )
