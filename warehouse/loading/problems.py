"""Problems of raw files and their messages: file, column, rows and fix. A value is never quoted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_LINES = 20  # a screenful


@dataclass(frozen=True)
class Problem:
    """A problem of a file, the number of rows that have it, and the first of these rows."""

    file: str
    what: str
    fix: str
    column: str | None = None
    rows: Sequence[int] = ()
    count_rows: int = 0

    def __str__(self) -> str:
        """Return one line, such as `events.csv, user_id: empty in 2 rows (3, 9). Give every row a value.`"""
        place = f"{self.file}, {self.column}" if self.column else self.file
        if not self.count_rows:
            return f"{place}: {self.what}. {self.fix}"
        if self.count_rows == 1:
            row = f"row {self.rows[0]}" if self.rows else "1 row"
            return f"{place}: {self.what} in {row}. {self.fix}"
        rows = ", ".join(map(str, self.rows)) + (", ..." if self.count_rows > len(self.rows) else "")
        return f"{place}: {self.what} in {self.count_rows:,} rows{f' ({rows})' if self.rows else ''}. {self.fix}"


@dataclass(frozen=True)
class Variant:
    """A more specific message for some of a check's rows. `condition` is SQL over a staged row, with its texts in `raw`."""

    condition: str
    what: str
    fix: str


@dataclass(frozen=True)
class Check:
    """A check of a column. `breach` is SQL that is true if a row is wrong. The first matching variant has the message."""

    column: str
    breach: str
    what: str
    fix: str
    variants: tuple[Variant, ...] = ()

    @property
    def words(self) -> tuple[tuple[str, str], ...]:
        """The `what` and `fix` of each variant, then those of the check itself."""
        return (*((variant.what, variant.fix) for variant in self.variants), (self.what, self.fix))

    @property
    def words_index(self) -> str:
        """SQL for the index in `words` of a row's message."""
        cases = " ".join(f"when {variant.condition} then {place}" for place, variant in enumerate(self.variants))
        return f"case {cases} else {len(self.variants)} end" if cases else "0"


def message(problems: Sequence[Problem]) -> str:
    """Return the text of the error with all problems of all files."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"Nothing was loaded: {count}. Rows are data rows, counted from 1 without the header."]
    lines += [str(problem) for problem in problems]
    if len(lines) > MAX_LINES:
        count_left_off = len(lines) - MAX_LINES + 1
        last = f"... and {count_left_off} more problems: fix these and load again to see the rest."
        lines = [*lines[: MAX_LINES - 1], last]
    return "\n".join(lines)
