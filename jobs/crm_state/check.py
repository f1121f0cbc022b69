"""Check that the settings name the CRM whose state the tables hold.

The tables remember what a CRM acknowledged. For another CRM that is wrong: it would get almost nothing, because everything
counts as acknowledged, and `winback erase` would not reach the CRM that holds the users.
"""

from __future__ import annotations

from datetime import timedelta

from core.errors import ContractError
from jobs.context import JobContext
from warehouse import crms
from warehouse.crms import ServedCrm
from warehouse.interface import Reader
from warehouse.tables import CRMS, DELIVERIES

# Clocks of two machines may differ by this much.
_SKEW = timedelta(days=1)
REMEDY = (
    "If the settings are wrong, correct WINBACK_CRM and WINBACK_CRM_URL. If they are right:",
    "winback switch-crm",
    "If it is the same CRM at another address, with all its data:",
    "winback switch-crm --keep-state",
)


def check_crm(context: JobContext) -> ServedCrm:
    """Return the CRM of the settings as its row of `ops.crms`, which may not be written yet; records nothing.

    A CRM that has answered about no user yet is replaced without a question: its address may have been a mistake.

    Raises: ContractError if the tables hold the state of another CRM.
    """
    return _expected(context, crms.newest(context.warehouse))


def adopt_crm(context: JobContext) -> ServedCrm:
    """Check the CRM as `check_crm` does, and record it if it is new. A run calls this before it builds or sends anything.

    Raises: ContractError as `check_crm`, RetryableError if another process changes the CRM at the same time.
    """
    last = crms.newest(context.warehouse)
    crm = _expected(context, last)
    return crm if crm == last else crms.adopt(context.warehouse, crm)


def _expected(context: JobContext, last: ServedCrm | None) -> ServedCrm:
    if last is None:
        return ServedCrm(0, context.crm, context.now(), 0, crms.FIRST)
    if problem := _problem(context.warehouse, last, context.crm):
        raise ContractError(f"{problem} Nothing was built, sent or erased. {' '.join(REMEDY)}")
    if last.crm == context.crm:
        return last
    return ServedCrm(last.number + 1, context.crm, context.now(), last.number + 1, crms.REPLACED)


def other_crm(warehouse: Reader, crm: str) -> str | None:
    """Return what is wrong if the tables hold the state of another CRM than `crm`, or None."""
    last = crms.newest(warehouse) if warehouse.exists(CRMS.layer, CRMS.name) else None
    return _problem(warehouse, last, crm) if last else None


def _problem(warehouse: Reader, last: ServedCrm, crm: str) -> str | None:
    if not last.is_complete:
        return f"The switch to the CRM {last.crm} was interrupted; the settings name {crm}."
    if last.crm == crm or not _has_answered(warehouse, last):
        return None
    return f"The tables hold what the CRM {last.crm} acknowledged, and the settings name {crm}."


def _has_answered(warehouse: Reader, last: ServedCrm) -> bool:
    """Return whether the CRM has confirmed or rejected a delivery. Asked only when the settings name another one."""
    if warehouse.exists("marts", "crm_acknowledged"):
        acknowledged = warehouse.relation("marts", "crm_acknowledged")
        where = "acknowledged_at is not null or rejected_hash is not null"
        sql = f"select 1 as found from {acknowledged} where {where} limit 1"
        if warehouse.query(sql).num_rows:
            return True
    # A run that was killed may have left deliveries that are not in crm_acknowledged yet.
    sql = f"""
        select 1 as found from {warehouse.relation(DELIVERIES.layer, DELIVERIES.name)}
        where attempted_at >= $since and outcome in ('delivered', 'rejected') and coalesce(crm_number, 0) >= $number
        limit 1
    """
    parameters = {"since": last.adopted_at - _SKEW, "number": last.state_from}
    return bool(warehouse.query(sql, parameters).num_rows)
