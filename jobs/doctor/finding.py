"""A finding of `winback doctor`, and the comparison of a table's columns with the expected ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MIGRATE = ("Stop the schedule, copy the warehouse, and migrate it:", "winback migrate --dry-run", "winback migrate")
State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The result of one check. `do` is what to do: a sentence, then commands or SQL to paste, one per line."""

    check: str
    state: State
    says: str
    do: tuple[str, ...] = ()


@dataclass(frozen=True)
class SchemaDiff:
    """Differences between a table's columns and those of this version: missing names, and wrong types as (actual, expected)."""

    missing: list[str]
    other: dict[str, tuple[str, str]]

    @property
    def says(self) -> str:
        """The differences in one line; empty if there are none."""
        parts = [f"has no column {name}" for name in self.missing]
        parts += [f"has {name} as {found} instead of {wanted}" for name, (found, wanted) in self.other.items()]
        return ", ".join(parts)


def compare(types: dict[str, str], wanted: dict[str, str]) -> SchemaDiff:
    """Compare columns by name and type; extra columns are allowed."""
    return SchemaDiff(
        missing=[name for name in wanted if name not in types],
        other={name: (types[name], kind) for name, kind in wanted.items() if types.get(name, kind) != kind},
    )


def check_winback_tables(check: str, found: dict[str, SchemaDiff], names: Sequence[str]) -> Finding:
    """Check the tables with these names, which winback creates.

    An upgrade may add columns that a table of an earlier version lacks.
    """
    wrong = {table: columns for table, columns in found.items() if columns.says}
    if not wrong:
        absent = [table for table in names if table not in found]
        made = f"; the first run creates {', '.join(absent)}" if absent else ""
        return Finding(
            check, "ok", f"{len(found)} of {len(names)} tables exist, with the columns of this version{made}"
        )
    says = "; ".join(f"{table} {columns.says}" for table, columns in wrong.items())
    do = [*MIGRATE] if any(columns.missing for columns in wrong.values()) else []
    if any(columns.other for columns in wrong.values()):
        do.append("A column of another type was not made by winback: use another warehouse, or restore the table.")
    return Finding(check, "failed", says, tuple(do))


def size(count_bytes: int) -> str:
    """Return a number of bytes with a unit that people can read."""
    amount, unit = float(count_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:,.0f} {unit}" if unit == "bytes" else f"{amount:,.1f} {unit}"
