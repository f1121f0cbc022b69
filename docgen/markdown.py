"""Small pieces of Markdown: tables and cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

NOTE = "<!-- Generated from the code by `make reference`. Do not edit: change the code and run it again. -->"


def cell(text: object) -> str:
    """Return a text that fits a cell: one line, with bars escaped, and no HTML outside of backticks."""
    parts = re.split(r"(`[^`]*`)", " ".join(str(text).split()).replace("|", r"\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(each) for each in line) + " |" for line in lines).replace("|  |", "| |")


def page(title: str, *parts: str) -> str:
    """Return a generated page: the note, the title, and the parts with a blank line between."""
    return "\n\n".join([NOTE, f"# {title}", *(part.strip("\n") for part in parts if part)]) + "\n"


def code(value: object) -> str:
    """Return a value in backticks, or an empty text."""
    return f"`{value}`" if str(value) else ""
