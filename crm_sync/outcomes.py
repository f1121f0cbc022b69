"""Counts of a sync's outcomes, and the breaker that stops it when too many rows are rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import CircuitOpenError, RetryableError, WinbackError
from crm_sync.destination import DeadlineExceededError, Outcome, UnavailableError
from crm_sync.diff import Change

UNSENDABLE = "unsendable"
# With fewer attempts a ratio means little. At the end of a run, ten failures out of ten are not chance.
MIN_ATTEMPTS_FOR_CIRCUIT = 50
MIN_ALL_REJECTED = 10


@dataclass
class SyncCounts:
    """Counts of the rows in which desired and acknowledged state differ, each in exactly one of the five outcomes.

    `suppressed` and `deferred` are counted by reason, `errors` by code of the rejected rows. Rows with a value that cannot be
    sent are rejected as unsendable. `withdrawals` are part of delivered, `withdrawals_rejected` of the CRM's rejections.
    """

    differing: int = 0
    delivered: int = 0
    unchanged: int = 0
    rejected: int = 0
    suppressed: dict[str, int] = field(default_factory=dict)
    deferred: dict[str, int] = field(default_factory=dict)
    withdrawals: int = 0
    withdrawals_rejected: int = 0
    requests: int = 0
    attributes: int = 0
    audience: int | None = None
    errors: dict[str, int] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def settled(self) -> int:
        """Number of rows with an outcome other than deferred."""
        return self.delivered + self.unchanged + self.rejected + sum(self.suppressed.values())

    @property
    def is_complete(self) -> bool:
        """Whether every row ended in one outcome."""
        return self.differing == self.settled + sum(self.deferred.values())


def add(counts: dict[str, int], reason: str, number: int) -> None:
    """Add a number to the count of a reason."""
    if number:
        counts[reason] = counts.get(reason, 0) + number


def record_outcomes(sent: Sequence[Change], outcomes: Sequence[Outcome], counts: SyncCounts) -> None:
    """Count the outcomes of the changes that were sent."""
    for change, outcome in zip(sent, outcomes, strict=True):
        if outcome.kind == "delivered":
            counts.delivered += 1
            counts.withdrawals += change.is_withdrawal
            counts.attributes += len(change.attributes)
        elif outcome.kind == "rejected":
            counts.rejected += 1
            counts.withdrawals_rejected += change.is_withdrawal and outcome.code != UNSENDABLE
            add(counts.errors, outcome.code or "unknown", 1)
        else:
            add(counts.deferred, outcome.code or "unconfirmed", 1)


def why_deferred(stopped: WinbackError | None) -> str:
    """The reason for the rows that were not sent."""
    if isinstance(stopped, UnavailableError | DeadlineExceededError):
        return stopped.code
    if isinstance(stopped, CircuitOpenError):
        return "circuit_open"
    return "stopped" if stopped else "unconfirmed"


def crm_rejections_breaker(
    counts: SyncCounts, max_rejected_ratio: float, *, is_at_end: bool = False
) -> CircuitOpenError | None:
    """Return an error, which stops sending, if the CRM rejected too many of the users sent.

    At the end, also if it rejected all withdrawals or all other changes, however many of the other kind it accepted.
    """
    rejected = counts.rejected - counts.errors.get(UNSENDABLE, 0)
    if not _are_too_many(rejected, counts.delivered + rejected, max_rejected_ratio, is_at_end=is_at_end):
        return _all_of_a_kind(counts, rejected, max_rejected_ratio) if is_at_end else None
    commonest = max((code for code in counts.errors if code != UNSENDABLE), key=lambda code: counts.errors[code])
    stopped = "" if is_at_end else "Sending was stopped. "
    return CircuitOpenError(
        f"The CRM rejected {rejected} of {counts.delivered + rejected} users, most with {commonest}. {stopped}"
        "See winback dead-letters; after fixing the cause: winback dead-letters retry"
    )


def _all_of_a_kind(counts: SyncCounts, rejected: int, max_rejected_ratio: float) -> CircuitOpenError | None:
    """Return an error if all withdrawals were rejected, so that the vouchers stay, or all other changes. For the end of a run."""
    others = (rejected - counts.withdrawals_rejected, counts.delivered - counts.withdrawals)
    withdrawals = (counts.withdrawals_rejected, counts.withdrawals)
    for what, (failed, taken) in {"withdrawals of a voucher": withdrawals, "other users": others}.items():
        if not taken and failed >= MIN_ALL_REJECTED and failed > max_rejected_ratio * failed:
            return CircuitOpenError(
                f"The CRM rejected all {failed} {what}, and took {counts.delivered} of the rest. See winback dead-letters; "
                "after fixing the cause: winback dead-letters retry"
            )
    return None


def unsendable_breaker(counts: SyncCounts, max_rejected_ratio: float) -> CircuitOpenError | None:
    """Return an error if too many rows were unsendable. They cost no request, so the check runs after all others were sent."""
    unsendable, attempts = counts.errors.get(UNSENDABLE, 0), counts.delivered + counts.rejected
    if not _are_too_many(unsendable, attempts, max_rejected_ratio, is_at_end=True):
        return None
    return CircuitOpenError(
        f"{unsendable} of {attempts} users have a score or a time that cannot be sent to a CRM; the others were sent. "
        "See winback dead-letters, and which model scored them: winback status"
    )


def none_taken_breaker(counts: SyncCounts) -> RetryableError | None:
    """Return an error if the CRM answered but accepted no user. A run that ended with success would hide it every hour."""
    deferred = sum(counts.deferred.values())
    if counts.delivered or counts.rejected or deferred < MIN_ALL_REJECTED:
        return None
    commonest = max(counts.deferred, key=lambda reason: counts.deferred[reason])
    return RetryableError(
        f"The CRM took none of {deferred} users: most were deferred as {commonest}. The next run sends them again; if the "
        "error repeats, see docs/runbook/rows-not-confirmed.md"
    )


def _are_too_many(rejected: int, attempts: int, max_rejected_ratio: float, *, is_at_end: bool) -> bool:
    is_enough = attempts >= MIN_ATTEMPTS_FOR_CIRCUIT or (is_at_end and attempts == rejected >= MIN_ALL_REJECTED)
    return is_enough and rejected > max_rejected_ratio * attempts
