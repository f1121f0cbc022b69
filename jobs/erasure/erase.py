"""Erasure of a user: tombstone, CRM, tables, and a receipt for each step.

The tombstone is written first. From then on no run reads, decides or sends anything for the user, even if more data arrives or a
run is in progress. The later steps can be repeated until they succeed. Receipts hold a hash of the user's id, never the id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from core.clock import UNIX_EPOCH
from core.errors import ContractError, RetryableError, WinbackError
from crm_sync.deadline import Deadline
from crm_sync.destination import DeadlineExceededError, Outcome, Run, UnavailableError
from jobs.context import JobContext
from jobs.crm_state.check import check_crm
from jobs.erasure.records import (
    CRM,
    TOMBSTONE,
    Receipt,
    ReceiptLog,
    Tombstone,
    has_tombstone_sql,
    tombstones,
    write_tombstone,
)
from jobs.erasure.residual_data import in_former_crms, stays
from warehouse import crms
from warehouse.interface import UserTable
from warehouse.tables import DELIVERIES

CRM_SECONDS = 120.0
# Eight days, so that a nightly that failed for a week misses nothing. No run lasts that long.
RECENT = timedelta(days=8)


@dataclass(frozen=True)
class Erased:
    """Result of an erasure. `stays` lists what remains and for how long; `problem` is the error of a failed step."""

    erasure_id: str
    requested_at: datetime
    receipts: list[Receipt]
    stays: list[str]
    problem: WinbackError | None

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return asdict(self) | {"problem": str(self.problem) if self.problem else None}


def erase(context: JobContext, user_id: str) -> Erased:
    """Erase a user, known or unknown. A second call finishes what is left, and adds receipts only for that.

    A failure of the CRM or of one table does not stop the other steps; it is in `problem`.

    Raises: RetryableError, ContractError if the tables hold the state of another CRM, the tombstone cannot be written, or the
    tables cannot be listed.
    """
    check_crm(context)  # the CRM of the settings does not know the user; the other one keeps them
    context.reporter.step("Writing the tombstone")
    tombstone = write_tombstone(context, hashlib.sha256(user_id.encode()).hexdigest())
    tables = context.warehouse.user_tables()
    done, problems = ReceiptLog(context, tombstone), list[WinbackError]()
    whose = f"{context.warehouse.user_hash('user_id')} = $user_hash"

    def delete(table: UserTable) -> None:
        try:
            count = context.warehouse.delete_users(table, whose, {"user_hash": tombstone.user_hash})
        except WinbackError as error:
            done.add(Receipt(table.title, "deferred"))
            kind = ContractError if isinstance(error, ContractError) else RetryableError
            problems.append(kind(f"{error} {table.title} may still hold rows of the user. Run the same command again."))
        else:
            done.add(Receipt(table.title, "deleted", count))

    try:
        # The CRM erases this user next, so deliveries logged until now can go; re_erase_recent handles later ones.
        for table in tables:
            if table.title == DELIVERIES.title:
                delete(table)
        context.reporter.step("Erasing in the CRM")
        receipt, problem = _erase_in_crm(context, tombstone, user_id)
        done.add(receipt)
        problems += [problem] if problem else []
        context.reporter.step("Erasing in the tables", count_tables=len(tables))
        for table in _in_order(tables):
            if not table.is_ours:
                done.add(Receipt(table.title, "kept"))
            elif table.title != DELIVERIES.title:
                delete(table)
    finally:
        done.write()
    worst = next((p for p in problems if isinstance(p, ContractError)), next(iter(problems), None))
    settings = context.settings
    receipts = [Receipt(TOMBSTONE, "written"), *done.receipts]
    return Erased(
        tombstone.erasure_id,
        tombstone.requested_at,
        receipts,
        [
            *stays(settings.crm, is_bigquery=bool(settings.bigquery)),
            *in_former_crms(crms.left_behind(context.warehouse)),
        ],
        worst,
    )


def re_erase_recent(context: JobContext, since: datetime, run: Run) -> int:
    """Erase again every user that a run sent after their tombstone was written; returns the number erased.

    A run calls this at its end; `since` (UTC) is when it began. A batch in flight re-creates users erased meanwhile, and a build
    in progress may write rows back. The next run retries users that the CRM has not erased yet. Costs one read of
    ops.erasures if there are no recent erasures.
    """
    warehouse = context.warehouse
    recent = {tombstone.user_hash: tombstone for tombstone in tombstones(warehouse, since - RECENT)}
    if not recent:
        return 0
    hashed = warehouse.user_hash("user_id")
    sql = f"""
        select distinct user_id, {hashed} as user_hash from {warehouse.relation(DELIVERIES.layer, DELIVERIES.name)}
        where attempted_at >= $since and {has_tombstone_sql(warehouse, hashed)}
    """
    told = warehouse.query(sql, {"since": since - RECENT}).to_pylist()
    erased = 0
    if told:
        context.reporter.step("Erasing again in the CRM", count_users=len(told))
        outcomes, _ = _asked(context, [row["user_id"] for row in told], run)
        deliveries = [table for table in warehouse.user_tables() if table.title == DELIVERIES.title]
        for row, outcome in zip(told, outcomes, strict=True):
            receipts = ReceiptLog(context, recent[row["user_hash"]])
            receipts.add(_receipt(outcome, row["user_id"]))
            receipts.write()
            if outcome.kind == "delivered":
                erased += 1
                # Delete the delivery row last, because the next run uses it to find users that the CRM still holds.
                _delete(context, deliveries, f"{hashed} = $user_hash", user_hash=row["user_hash"])
        context.reporter.step("Erased again in the CRM", count_users=erased, count_left=len(told) - erased)
    if tombstones(warehouse, since):
        purge_reappeared_rows(context)
    return erased


def purge_reappeared_rows(context: JobContext) -> dict[str, int]:
    """Delete rows of erased users that came back, from a build in progress or because a file was loaded again.

    Returns the number of rows per table. `re_erase_recent` deletes deliveries, after the CRM has confirmed.
    """
    warehouse = context.warehouse
    if not tombstones(warehouse, UNIX_EPOCH):
        return {}
    recent_since = context.now() - RECENT
    is_recent = bool(tombstones(warehouse, recent_since))
    tables = [t for t in _in_order(warehouse.user_tables()) if t.is_ours and t.title != DELIVERIES.title]
    whose = has_tombstone_sql(warehouse, warehouse.user_hash("user_id"))
    # Builds leave out erased users. Only a build that began before the tombstone may bring one back.
    raw = [table for table in tables if table.layer == "raw"]
    made = [table for table in tables if table.layer != "raw"] if is_recent else []
    return _delete(context, raw, whose, since=UNIX_EPOCH) | _delete(context, made, whose, since=recent_since)


def _erase_in_crm(context: JobContext, tombstone: Tombstone, user_id: str) -> tuple[Receipt, WinbackError | None]:
    """Erase a user in the CRM; returns the receipt, and what to do if it failed."""
    run = Deadline(f"erase-{tombstone.erasure_id}", CRM_SECONDS, clock=context.monotonic)
    (outcome,), error = _asked(context, [user_id], run)
    receipt = _receipt(outcome, user_id)
    if outcome.kind == "delivered":
        return receipt, None
    why = str(error) if error else f"The CRM returned {outcome.kind} ({receipt.error_code or outcome.http_status})."
    text = f"{why} The user is not erased in the CRM yet, but nothing is sent for them any more. Run the same command again."
    return receipt, ContractError(text) if isinstance(error, ContractError) else RetryableError(text)


def _asked(context: JobContext, user_ids: Sequence[str], run: Run) -> tuple[list[Outcome], WinbackError | None]:
    """Erase users in the CRM; returns an outcome for each, and the error if the CRM gave none."""
    try:
        return context.destination.erase(user_ids, run), None
    except (UnavailableError, DeadlineExceededError) as error:
        return [Outcome("deferred", code=error.code)] * len(user_ids), error
    except ContractError as error:
        return [Outcome("deferred", code="contract")] * len(user_ids), error


def _receipt(outcome: Outcome, user_id: str) -> Receipt:
    code = outcome.code
    if code and user_id.lower() in code.lower():
        code = "withheld"  # the code is made from the CRM's text, which contains the user's id
    return Receipt(CRM, "deleted" if outcome.kind == "delivered" else outcome.kind, None, outcome.http_status, code)


# Tables that are sent come first. Exits come before sessions and features, because data tests expect both for each exit.
_FIRST = ("crm_profiles", "crm_acknowledged", "fct_unfinished_exits")


def _in_order(tables: Iterable[UserTable]) -> list[UserTable]:
    return sorted(tables, key=lambda table: _FIRST.index(table.name) if table.name in _FIRST else len(_FIRST))


def _delete(context: JobContext, tables: Iterable[UserTable], whose: str, **parameters: Any) -> dict[str, int]:
    return {table.title: context.warehouse.delete_users(table, whose, parameters) for table in tables}
