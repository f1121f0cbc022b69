"""Sends a refused batch again without the rows that the CRM named: one more request per reply instead of halving."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crm_sync.destination import BatchRefusedError, Outcome
from crm_sync.diff import Change
from crm_sync.redaction import redacted

# From this many named rows on, their share of the rows checked so far counts: above half, the requests may be at fault.
MIN_NAMED = 20
MAX_NAMED_RATIO = 0.5


def without_named(
    batch: Sequence[Change], send: Callable[[Sequence[Change]], list[Outcome]], private: Callable[[Change], list[str]]
) -> list[Outcome]:
    """Send a batch by `send`, again without each named row, and return an outcome for each row in order.

    `private` returns the texts of a change that a reason must not contain. Raises: as `send`. BatchRefusedError if the refusal
    names no row, or so many that halving must find out whether rows are at fault at all.
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
    """Whether all rows may be named in the end. A CRM that names only the first row at fault has checked the rows before it."""
    return count_named >= MIN_NAMED and count_named > MAX_NAMED_RATIO * count_looked_at
