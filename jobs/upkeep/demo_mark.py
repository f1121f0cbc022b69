"""Mark of a demo: a table in its DuckDB file that lists the epochs that the demo and its replays commit.

Other epochs in the file do not belong to the demo. The mark is written before its epochs, so that it is correct after a crash.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.interface import Reader
from warehouse.ledger import Epoch

LAYER, NAME = "demo", "mark"
OWN_DATA = "Set WINBACK_WAREHOUSE and WINBACK_MODELS to places of your own"


@dataclass(frozen=True)
class DemoMark:
    """`history_until`: end of the backfill. `windows_until`: ends of all windows. `data_until`: end of the data. Times UTC."""

    history_until: datetime
    windows_until: frozenset[datetime]
    data_until: datetime

    def is_of_demo(self, last: Epoch | None) -> bool:
        """Return whether the last epoch is the demo's. A run by the real clock makes the warehouse an ordinary one."""
        return last is None or last.window_until in self.windows_until


def read_mark(warehouse: Reader) -> DemoMark | None:
    """Return the mark, or None if no demo made the warehouse. Demos are always DuckDB files."""
    if not isinstance(warehouse, DuckDBWarehouse) or not warehouse.exists(LAYER, NAME):
        return None
    rows = warehouse.query(f"select mark from {warehouse.relation(LAYER, NAME)}").to_pylist()
    if not rows:
        return None
    found = json.loads(rows[0]["mark"])
    windows = frozenset(datetime.fromisoformat(text) for text in found["windows_until"])
    return DemoMark(
        datetime.fromisoformat(found["history_until"]), windows, datetime.fromisoformat(found["data_until"])
    )


def write_mark(warehouse: DuckDBWarehouse, mark: DemoMark) -> None:
    """Replace the mark in one transaction."""
    text = json.dumps(
        {
            "history_until": mark.history_until.isoformat(),
            "windows_until": sorted(moment.isoformat() for moment in mark.windows_until),
            "data_until": mark.data_until.isoformat(),
        }
    )
    warehouse.change(f'create schema if not exists "{LAYER}"')
    warehouse.change(f"create or replace table {warehouse.relation(LAYER, NAME)} as select '{text}' as mark")


def next_of_demo(mark: DemoMark, last: Epoch) -> tuple[str, str]:
    """Return the next step in the warehouse of a demo: a sentence and a command."""
    next_until = last.window_until + timedelta(hours=1)
    if last.kind == "backfill" or next_until > mark.data_until:
        return "The demo is not finished, or its data is used up. Create it again:", "winback demo"
    return "Run its next hour by its own clock:", f"winback backtest --until {next_until:%Y-%m-%dT%H:%M} --every 1"


def of_demo(last: Epoch) -> str:
    """Return the message about the warehouse of a demo, whose clock is not this machine's."""
    return (
        f"This is the demo's warehouse: its clock is at {last.window_until:%Y-%m-%d %H:%M} UTC. "
        f"For your own data: {OWN_DATA[0].lower()}{OWN_DATA[1:]}."
    )
