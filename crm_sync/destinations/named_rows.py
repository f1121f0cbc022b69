"""Sending a batch again without the rows that the CRM named when it refused it: a request more for each reply, and no halving."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crm_sync.destination import BatchRefusedError, Outcome
from crm_sync.diff import Change
from crm_sync.redaction import redacted

# From so many rows on it counts how many of the first rows are named: where it is half of them, the fault may not be theirs.
MIN_NAMED = 20
MAX_NAMED_RATIO = 0.5


def without_named(
    batch: Sequence[Change], send: Callable[[Sequence[Change]], list[Outcome]], private: Callable[[Change], list[str]]
) -> list[Outcome]:
    """Send a batch by `send`, again without each row named, and return an outcome for each row in order.

    `private` are the texts of a change that a reason must not hold. Raises: as `send`; BatchRefusedError where the refusal names
    no row, or so many that halving shall find out whether the fault is theirs at all.
    """
    outcomes: dict[int, Outcome] = {}
    left = list(range(len(batch)))
    while left:
        try:
            sent = send([batch[row] for row in left])
        except BatchRefusedError as refused:
            named = {left[place]: words for place, words in refused.rows.items() if 0 <= place < len(left)}
            rows = {*outcomes, *named}
            if not named or len(rows) == len(batch) or _may_be_all(len(rows), max(rows) + 1):
                raise
            for row, (code, sentence) in named.items():
                reason = redacted(sentence, *private(batch[row])) if sentence else None
                outcomes[row] = Outcome("rejected", refused.http_status, code, reason)
            left = [row for row in left if row not in named]
        else:
            outcomes |= dict(zip(left, sent, strict=True))
            break
    return [outcomes[row] for row in range(len(batch))]


def _may_be_all(count_named: int, count_looked_at: int) -> bool:
    """A CRM that names the first row at fault alone has looked at those before it."""
    return count_named >= MIN_NAMED and count_named > MAX_NAMED_RATIO * count_looked_at
