"""Counts values that break the feature contract, and decides whether a few rows are odd or all are wrong.

A few odd rows stop nothing: a number out of range counts as missing, and a row without a required value is set aside. A fifth of
all rows, of at least 50 users, stops the run, because a unit has probably changed or a column was lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import ContractError

STOP_RATIO = 0.2
STOP_USERS = 50
Flags = npt.NDArray[np.bool_]


def is_the_whole(count_rows: int, count_users: int, count_all: int) -> bool:
    """Return whether this many odd rows, of this many users, mean that all rows are suspect."""
    return count_rows >= STOP_RATIO * count_all and count_users >= STOP_USERS


@dataclass
class _Count:
    rows: int = 0
    users: list[Any] = field(default_factory=list)


class Faults:
    """Violations of the contract in one table, read in one or more parts. A part's `user_id`, if present, names its users."""

    def __init__(self) -> None:
        """Start with nothing read."""
        self.count_rows = 0
        self._outside: dict[str, _Count] = {}
        self._missing: dict[str, _Count] = {}
        self._ranges: dict[str, tuple[float, float]] = {}
        self._users: Any = None

    @property
    def out_of_range(self) -> dict[str, int]:
        """Number of values of each feature that were out of range, and so count as missing."""
        return {name: count.rows for name, count in self._outside.items()}

    def read(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Begin a part."""
        self.count_rows += rows.num_rows
        self._users = rows.column("user_id") if "user_id" in rows.schema.names else None

    def add_outside(self, name: str, allowed: tuple[float, float], flags: Flags) -> None:
        """Count the flagged rows of the part: a feature's value is out of range."""
        self._ranges[name] = allowed
        self._add(self._outside, name, flags)

    def add_missing(self, name: str, flags: Flags) -> None:
        """Count the flagged rows of the part: a required value is missing."""
        self._add(self._missing, name, flags)

    def check(self, where: str) -> None:
        """Raises: ContractError when a fifth of the rows, of 50 users or more, break the contract in one feature."""
        for name, count in self._outside.items():
            if share := self._stops(count):
                lowest, highest = self._ranges[name]
                raise ContractError(
                    f"{where}: {name} is outside {lowest:g} to {highest:g} in {share}. Its unit may have changed. Restore the "
                    f"unit where the app or dbt writes {name}. If the new values are right, set the range in config/features.yml "
                    "and train a model: winback train"
                )
        for name, count in self._missing.items():
            if share := self._stops(count):
                raise ContractError(
                    f"{where}: {name} is null in {share}; the contract refuses that. Restore the column in dbt. If null is "
                    "right, set `missing: allowed` in config/features.yml and train a model: winback train"
                )

    def _add(self, counts: dict[str, _Count], name: str, flags: Flags) -> None:
        found = int(flags.sum())
        if not found:
            return
        count = counts.setdefault(name, _Count())
        count.rows += found
        if self._users is not None:
            count.users += pc.unique(self._users.filter(pa.array(flags))).to_pylist()

    def _stops(self, count: _Count) -> str:
        """Return the share in words if it is large, else an empty text."""
        users = len(set(count.users)) if count.users else count.rows
        if not is_the_whole(count.rows, users, self.count_rows):
            return ""
        return f"{count.rows} of {self.count_rows} rows ({count.rows / self.count_rows:.0%}), of {users} users"
