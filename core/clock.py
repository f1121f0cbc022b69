"""The clock, and two fixed times: the start of all data, and the earliest time that data may have."""

from __future__ import annotations

from datetime import UTC, datetime

UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)  # default of WINBACK_EARLIEST_AT: an app's rows are younger


def utc_now() -> datetime:
    """Return the current time, timezone-aware, in UTC."""
    return datetime.now(UTC)
