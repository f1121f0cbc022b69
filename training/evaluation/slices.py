"""Slices of the exits on which a model is measured: device, referral source, new or returning, week."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

DEVICE, REFERRAL, VISIT, WEEK = "device of the last visit", "referral source", "new or returning", "ISO week of exit"
_COLUMNS = {DEVICE: "device_type", REFERRAL: "referral_source"}


def parts(rows: pa.Table) -> dict[str, list[str | None]]:
    """Return each row's part for each way to cut the rows. A way whose column is absent is left out.

    `rows` are of `fct_training_examples`. A user is new if they left in their first session. The week is of the exit, UTC.
    """
    cut: dict[str, list[str | None]] = {
        way: rows.column(column).cast(pa.string()).to_pylist()
        for way, column in _COLUMNS.items()
        if column in rows.column_names
    }
    if "count_sessions" in rows.column_names:
        cut[VISIT] = pc.if_else(pc.equal(rows.column("count_sessions"), 1), "first session", "came back").to_pylist()
    if "exited_at" in rows.column_names:
        week = pc.iso_calendar(rows.column("exited_at").cast(pa.timestamp("us")))
        cut[WEEK] = [f"{w['iso_year']}-W{w['iso_week']:02}" for w in week.to_pylist()]
    return cut
