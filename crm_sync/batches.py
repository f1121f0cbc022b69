"""How does each row of a batch get its own outcome, even where the CRM refuses the batch whole?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from crm_sync.changes import Change, Changed
from crm_sync.destination import BatchRefusedError, Destination, Outcome, OutOfTimeError, Run, UnavailableError
from crm_sync.redaction import redacted
from warehouse.errors import CircuitOpenError, ContractError, WinbackError

# So many users refused one by one, and none taken: it is not they who are at fault, and the rest of a batch need not be halved.
MAX_REFUSED_ALONE = 50


@dataclass(frozen=True)
class Batch:
    """Changes to be sent together, of rows of `states`."""

    changes: Sequence[Change]
    states: pa.RecordBatch

    @property
    def is_withdrawal(self) -> bool:
        """Whether it takes vouchers away; no batch holds withdrawals and others."""
        return self.changes[0].is_withdrawal


@dataclass
class Sent:
    """What became of a batch: parts with outcomes, and why the rest has none."""

    batch: Batch
    parts: list[tuple[Sequence[Change], list[Outcome]]] = field(default_factory=list)
    requests: int = 0
    error: WinbackError | None = None


def batches(changed: Changed, size: int) -> Iterator[Batch]:
    """Cut changes into batches of withdrawals and batches of the rest."""
    found = changed.changes
    grants_from = next((i for i, change in enumerate(found) if not change.is_withdrawal), len(found))
    for part in (found[:grants_from], found[grants_from:]):
        for start in range(0, len(part), size):
            yield Batch(part[start : start + size], changed.states)


def send(destination: Destination, batch: Batch, run: Run) -> Sent:
    """Send a batch; where the CRM refuses it whole, halve it until the row at fault stands alone."""
    sent = Sent(batch)
    parts = [batch.changes]
    refused_alone = 0
    try:
        while parts:
            part = parts.pop()
            sent.requests += 1
            try:
                sent.parts.append((part, destination.send(part, run)))
            except BatchRefusedError as refusal:
                middle = len(part) // 2
                if middle:
                    parts += [part[middle:], part[:middle]]
                else:
                    # The sentence was about the batch: only here is it known whom it may name.
                    reason = refusal.reason and redacted(refusal.reason, part[0].external_id)
                    outcome = Outcome("rejected", refusal.http_status, refusal.code, reason)
                    sent.parts.append((part, [outcome]))
                    refused_alone += 1
                    if refused_alone == len(sent.parts) == MAX_REFUSED_ALONE:
                        raise CircuitOpenError(
                            f"The CRM refused {refused_alone} users one by one with {refusal.code}, and took none of their "
                            "batch. Sending was stopped. See winback dead-letters; after the cause is mended: winback "
                            "dead-letters retry"
                        ) from None
    except (UnavailableError, OutOfTimeError, ContractError, CircuitOpenError) as error:
        sent.error = error
    return sent
