"""How do a table and a time look on a screen?"""

from __future__ import annotations

from datetime import datetime

from rich.table import Table


def table_of(*columns: str, title: str | None = None) -> Table:
    """Return an empty table without lines: the first column to the left, the others, for numbers, to the right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim", title_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right")
    return made


def when(moment: datetime | None) -> str:
    """Return a moment (UTC) to the minute, or "never"."""
    return f"{moment:%Y-%m-%d %H:%M}" if moment else "never"
