"""Format of tables and times on the terminal."""

from __future__ import annotations

from datetime import datetime

from rich.table import Table


def table_of(*columns: str, title: str | None = None) -> Table:
    """Return an empty table without lines; the first column is aligned left, the others, for numbers, right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim", title_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right")
    return made


def when(moment: datetime | None) -> str:
    """Return a time (UTC) to the minute, or "never"."""
    return f"{moment:%Y-%m-%d %H:%M}" if moment else "never"


def reasons_text(counts: dict[str, int]) -> str:
    """Return counts by reason as a text, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count:,}" for name, count in ordered) or "none"
