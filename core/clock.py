"""The clock, and the two moments that stand for "always" and for "too early to be true"."""

from __future__ import annotations

from datetime import UTC, datetime

UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)  # default of WINBACK_EARLIEST_AT: an app's rows are younger


def utc_now() -> datetime:
    """Return the time now, aware, in UTC."""
    return datetime.now(UTC)
