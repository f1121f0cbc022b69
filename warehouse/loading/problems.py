"""What is wrong with raw files, in the words a person reads: file, column, rows and fix; a value is never quoted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_LINES = 20  # a screenful


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file, how many rows have it, and the first of them."""

    file: str
    what: str
    fix: str
    column: str | None = None
    rows: Sequence[int] = ()
    count_rows: int = 0

    def __str__(self) -> str:
        """Return `events.csv, user_id: empty in 2 rows (3, 9). Give every row a value.` as one line."""
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
    """Better words for some of the rows that break a check. `condition` is SQL over a staged row, its texts in the struct raw."""

    condition: str
    what: str
    fix: str


@dataclass(frozen=True)
class Check:
    """`breach` is SQL that is true where a row is wrong; the first variant that applies to a row has the words for it."""

    column: str
    breach: str
    what: str
    fix: str
    variants: tuple[Variant, ...] = ()

    @property
    def words(self) -> tuple[tuple[str, str], ...]:
        """Each variant's `what` and `fix`, and the check's own last."""
        return (*((variant.what, variant.fix) for variant in self.variants), (self.what, self.fix))

    @property
    def words_index(self) -> str:
        """SQL of the place in `words` of what is said of a row."""
        cases = " ".join(f"when {variant.condition} then {place}" for place, variant in enumerate(self.variants))
        return f"case {cases} else {len(self.variants)} end" if cases else "0"


def message(problems: Sequence[Problem]) -> str:
    """Return the text of the one error for all problems of all files."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"Nothing was loaded: {count}. Rows are data rows, counted from 1 without the header."]
    lines += [str(problem) for problem in problems]
    if len(lines) > MAX_LINES:
        count_left_off = len(lines) - MAX_LINES + 1
        last = f"... and {count_left_off} more problems: mend these and load again to see the rest."
        lines = [*lines[: MAX_LINES - 1], last]
    return "\n".join(lines)
