"""Sending of batches: each row gets its own outcome, even if the CRM refuses the whole batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import pyarrow as pa

from core.errors import CircuitOpenError, ContractError, WinbackError
from crm_sync.destination import (
    BatchRefusedError,
    DeadlineExceededError,
    Destination,
    MisconfiguredError,
    Outcome,
    Run,
    UnavailableError,
)
from crm_sync.diff import Change, Changed
from crm_sync.redaction import redacted
from crm_sync.refusals import MIN_REFUSED_ALONE, Refused, Taken

# With this many users of a batch refused one by one and none accepted, stop halving, even if other batches were accepted.
MAX_REFUSED_ALONE = 50


@dataclass(frozen=True)
class Batch:
    """Changes to send together. Each refers to a row of `states`."""

    changes: Sequence[Change]
    states: pa.RecordBatch

    @property
    def is_withdrawal(self) -> bool:
        """Whether the batch withdraws vouchers. No batch mixes withdrawals with other changes."""
        return self.changes[0].is_withdrawal


@dataclass
class Sent:
    """Result of sending a batch.

    `parts` have outcomes. `alone` are users refused in a request of their own, with the code of the whole batch. `rest` was not
    sent completely, because the requests may be at fault and not the users. `error` says why sending stopped early.
    """

    batch: Batch
    parts: list[tuple[Sequence[Change], list[Outcome]]] = field(default_factory=list)
    alone: list[Refused] = field(default_factory=list)
    rest: list[Change] = field(default_factory=list)
    requests: int = 0
    error: WinbackError | None = None


def batches(changed: Changed, size: int) -> Iterator[Batch]:
    """Cut changes into batches of withdrawals and batches of the rest."""
    found = changed.changes
    grants_from = next((i for i, change in enumerate(found) if not change.is_withdrawal), len(found))
    for part in (found[:grants_from], found[grants_from:]):
        for start in range(0, len(part), size):
            yield Batch(part[start : start + size], changed.states)


def send(destination: Destination, batch: Batch, run: Run, taken: Taken) -> Sent:
    """Send a batch. If the CRM refuses the whole batch, halve it until the row at fault stands alone."""
    sending = _Sending(destination, batch, run, taken)
    try:
        sending.halve()
    except (UnavailableError, DeadlineExceededError, ContractError, CircuitOpenError) as error:
        sending.sent.error = error
    return sending.sent


class _Sending:
    """Sends one batch, in parts where needed."""

    def __init__(self, destination: Destination, batch: Batch, run: Run, taken: Taken) -> None:
        self.destination, self.run, self.taken = destination, run, taken
        self.kind, self.states = batch.is_withdrawal, batch.states
        self.sent = Sent(batch)
        self.waiting: list[Sequence[Change]] = [batch.changes]
        self.code: str | None = None  # of the refusal of the whole batch

    def halve(self) -> None:
        """Send the parts in order. A refused part is split into halves, which are sent next."""
        while self.waiting:
            part = self.waiting.pop()
            if not self._send(part):
                middle = len(part) // 2
                self.waiting += [part[middle:], part[:middle]] if middle else []
                if len(self.sent.alone) >= MIN_REFUSED_ALONE and not self._is_worth_halving():
                    self.sent.rest = list(chain.from_iterable(reversed(self.waiting)))
                    return

    def _send(self, part: Sequence[Change]) -> bool:
        """Send a part. Returns False if the whole part was refused, including a refusal of its only row."""
        self.sent.requests += 1
        try:
            outcomes = self.destination.send(part, self.run)
        except MisconfiguredError as error:
            self._take(part, error.outcomes)
            raise
        except BatchRefusedError as refusal:
            self.code = self.code or refusal.code
            if len(part) == 1:
                self._refuse(part[0], refusal)
            return False
        if len(part) == 1 and self.code and outcomes[0].kind == "rejected" and outcomes[0].code == self.code:
            self.sent.alone.append(Refused(part[0], outcomes[0], self.states))
            return False
        self._take(part, outcomes)
        return True

    def _take(self, part: Sequence[Change], outcomes: list[Outcome]) -> None:
        self.taken.add(self.kind, outcomes)
        self.sent.parts.append((part, outcomes))

    def _refuse(self, change: Change, refusal: BatchRefusedError) -> None:
        # The reason was about the batch. Redact it here, where the user it may name is known.
        reason = refusal.reason and redacted(refusal.reason, change.external_id)
        outcome = Outcome("rejected", refusal.http_status, refusal.code, reason)
        if refusal.code == self.code:
            self.sent.alone.append(Refused(change, outcome, self.states))
        else:
            self.sent.parts.append(([change], [outcome]))

    def _is_worth_halving(self) -> bool:
        """Whether the CRM accepts any user with this kind of request. Tries each waiting part once, the largest first.

        Raises: CircuitOpenError if the CRM accepts users of other batches but none of this one.
        """
        if self.kind in self.taken:
            if len(self.sent.alone) >= MAX_REFUSED_ALONE and not self.sent.parts:
                raise CircuitOpenError(
                    f"The CRM refused {len(self.sent.alone)} users one by one with {self.code}, and took none of their batch. "
                    "Sending was stopped. See winback dead-letters; after fixing the cause: winback dead-letters retry"
                )
            return True
        for part in sorted(self.waiting, key=len, reverse=True):
            if len(part) > 1 and self._send(part):
                self.waiting.remove(part)
                if self.kind in self.taken:
                    return True
        return False
