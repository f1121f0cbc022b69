"""Which examples does the model learn from, and which judge it? The later ones judge.

A label looks one label window ahead, so a gap of one window keeps the labels learned from out of the period judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TEST_RATIO = 0.20  # of the time span
VALIDATION_RATIO = 0.15  # of the rows before the gap
MIN_TRAIN_RATIO = 0.40  # of all rows, fit and validation together; below that the gap is shortened


@dataclass(frozen=True)
class Split:
    """Consecutive slices of the rows in time order; together they are all rows.

    Every exit before the gap lies at least `gap_us` before `test_from_us`, and no exit of the test before that.
    """

    fit: slice
    validation: slice
    gap: slice
    test: slice
    gap_us: int
    test_from_us: int

    @property
    def parts(self) -> dict[str, slice]:
        """Each slice under its name, in the order of time."""
        return {"fit": self.fit, "validation": self.validation, "gap": self.gap, "test": self.test}


def split_by_time(exited_us: npt.NDArray[np.int64], gap_us: int) -> Split:
    """Cut rows, given by their times in ascending order, microseconds; rows of one moment stay together.

    The gap is `gap_us` or, where that would leave less than `MIN_TRAIN_RATIO` of the rows before it, as much shorter as
    need be. A slice may be empty: whether what is left is enough is the caller's question.
    """
    count = len(exited_us)
    first, last = int(exited_us[0]), int(exited_us[-1])
    test_from = last - int((last - first) * TEST_RATIO)
    # Up to here lie MIN_TRAIN_RATIO of the rows.
    needed = int(exited_us[int(np.ceil(count * MIN_TRAIN_RATIO)) - 1])
    gap_us = max(min(gap_us, test_from - needed), 1)  # at least 1 us: no moment is both learned from and judged on

    before = int(np.searchsorted(exited_us, test_from - gap_us, side="right"))
    test = int(np.searchsorted(exited_us, test_from, side="left"))
    fit = 0
    if before:
        validation_from = exited_us[int(before * (1 - VALIDATION_RATIO))]
        fit = int(np.searchsorted(exited_us, validation_from, side="left"))
    return Split(slice(0, fit), slice(fit, before), slice(before, test), slice(test, count), gap_us, test_from)
