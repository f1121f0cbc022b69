"""Decides which values of the examples may leave the warehouse inside a model: those that at least 50 users share.

A bundle keeps words and numbers of its examples: category levels, medians, drift edges and split thresholds. Levels of fewer
users are pooled as `other`. A number of fewer users is replaced by a short decimal that separates the same rows.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

MIN_USERS: Final = 50
OTHER: Final = "other"
# Letters, digits, blanks, underscores and hyphens, at least one letter, at most 40 characters. This excludes addresses, links,
# markup, templates and separators, which need @ . : / < { ; or similar.
_WORDS = re.compile(r"(?=.*[^\W\d_])[^\W_][\w \-]{0,39}")
_LARGEST = float(np.finfo(np.float32).max)


def is_wording(level: str) -> bool:
    """Return whether a category level may become part of a sentence on a user's profile."""
    return _WORDS.fullmatch(level) is not None


def shared_levels(
    values: pa.ChunkedArray, users: pa.ChunkedArray, allowed: tuple[str, ...], min_users: int
) -> tuple[list[str], bool]:
    """Return the levels that a model may know, sorted, and whether `other` is one of them.

    With `allowed`, only those levels are used, however few users have them, because they come from the configuration. Otherwise a
    level needs `min_users`. The rest needs as many users together; with fewer it counts as missing.
    """
    rows = pa.table({"level": values.cast(pa.string()), "user": users}).filter(pc.is_valid(values))
    counted = rows.group_by("level").aggregate([("user", "count_distinct")])
    count_users = dict(zip(counted["level"].to_pylist(), counted["user_count_distinct"].to_pylist(), strict=True))
    levels = {name for name, count in count_users.items() if (name in allowed if allowed else count >= min_users)}
    pooled = rows.filter(pc.invert(pc.is_in(rows["level"], value_set=pa.array(sorted(levels - {OTHER}), pa.string()))))
    has_rest = len(levels - {OTHER}) < len(count_users) and pc.count_distinct(pooled["user"]).as_py() >= min_users
    return sorted(levels | {OTHER} if has_rest else levels), has_rest


class SharedNumbers:
    """The values of one numeric feature, and the number of users of each. Missing values are left out."""

    def __init__(self, values: npt.NDArray[np.floating], users: npt.NDArray[Any] | None = None) -> None:
        """`users` holds each value's user; without it, every value counts as a user."""
        self._values, self._users = values, users
        self._sorted = np.sort(values[~np.isnan(values)])

    def above(self, value: float) -> float:
        """Return a number that the same rows exceed: the value itself if enough users have it."""
        if self._is_shared(value):
            return value
        place = int(np.searchsorted(self._sorted, value, side="right"))
        return self._between(place)

    def below(self, value: float) -> float:
        """Return a number that the same rows stay below: the value itself if enough users have it."""
        if self._is_shared(value):
            return value
        place = int(np.searchsorted(self._sorted, value, side="left"))
        return self._between(place)

    def _is_shared(self, value: float) -> bool:
        start = int(np.searchsorted(self._sorted, value, side="left"))
        stop = int(np.searchsorted(self._sorted, value, side="right"))
        if stop - start < MIN_USERS or self._users is None:
            return stop - start >= MIN_USERS
        return len(np.unique(self._users[self._values == value])) >= MIN_USERS

    def _between(self, place: int) -> float:
        """Return a short decimal between the values before and at the index."""
        low = float(self._sorted[place - 1]) if place > 0 else -math.inf
        high = float(self._sorted[place]) if place < len(self._sorted) else math.inf
        return between(low, high)


def between(low: float, high: float) -> float:
    """Return the number with the fewest decimal digits that lies strictly between two numbers, in single precision too.

    If no single-precision number lies between them, it is `high`, to three digits.
    """
    if not math.isfinite(low) and not math.isfinite(high):
        return 0.0
    low = low if math.isfinite(low) else max(high - abs(high) - 1, -_LARGEST)
    high = high if math.isfinite(high) else min(low + abs(low) + 1, _LARGEST)
    exponent = math.ceil(math.log10(high - low)) if high > low else -40
    for power in range(exponent, exponent - 20, -1):
        for step in (10.0**power, 10.0**power / 2):
            # The second, if the first equals `low` in single precision.
            for count in (1, 2):
                number = float(f"{(math.floor(low / step) + count) * step:.15g}")
                if np.float32(low) < np.float32(number) < np.float32(high):
                    return number
    return float(f"{high:.3g}")
