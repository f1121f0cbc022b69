"""Split of the examples: the test set is later in time, and its users are not in the training set.

A label looks one label window ahead. A gap of one window keeps the outcomes of the test period out of the labels learned from.
A label looks one label window ahead. A gap of one window keeps the outcomes of the test period out of the labels learned from.
A hash of the user id decides the side of a user. Dropping users with exits on both sides would select by outcome: if a user
leaves unfinished again weeks later, the label of the earlier exit is always 1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

TEST_RATIO = 0.20  # of the time span
VALIDATION_RATIO = 0.15  # of the rows before the gap
MIN_TRAIN_RATIO = 0.40  # of all rows before the gap; with fewer, the gap is shortened

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Row numbers in order of time. The four parts together hold each row once.

    Fit and validation are exits of learned users, at least `gap_us` before `test_from_us`. The test is exits of judged users
    from then on. `aside` is the rest: the gap, judged users before it, learned users after it.
    """

    fit: Rows
    validation: Rows
    aside: Rows
    test: Rows
    gap_us: int
    test_from_us: int

    @property
    def parts(self) -> dict[str, Rows]:
        """Each part by its name."""
        return {"fit": self.fit, "validation": self.validation, "aside": self.aside, "test": self.test}

    @property
    def learned(self) -> Rows:
        """All rows that the model learns from: fit and validation."""
        return np.concatenate([self.fit, self.validation])


def share(user_ids: pa.ChunkedArray, salt: int) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each row's user. The same id and salt give the same number on every machine."""
    users = user_ids.combine_chunks().dictionary_encode()
    key = salt.to_bytes(8, "big")
    hashed = (hashlib.blake2b(user.encode(), digest_size=8, key=key).digest() for user in users.dictionary.to_pylist())
    numbers = np.frombuffer(b"".join(hashed), dtype=">u8") / 2.0**64
    shares: npt.NDArray[np.float64] = numbers[users.indices.to_numpy()].astype(np.float64)
    return shares


def split_by_time_and_user(
    exited_us: npt.NDArray[np.int64], user_share: npt.NDArray[np.float64], gap_us: int, judged_users_ratio: float
) -> Split:
    """Split rows by time and user. `exited_us` ascends, in microseconds; rows of one moment stay on one side of a cut.

    The gap is `gap_us`, or shorter if fewer than `MIN_TRAIN_RATIO` of the rows would lie before it. A part may be empty: the
    caller checks whether the parts are large enough.
    """
    count = len(exited_us)
    first, last = int(exited_us[0]), int(exited_us[-1])
    test_from = last - int((last - first) * TEST_RATIO)
    # MIN_TRAIN_RATIO of the rows lie before this moment.
    needed = int(exited_us[int(np.ceil(count * MIN_TRAIN_RATIO)) - 1])
    gap_us = max(min(gap_us, test_from - needed), 1)  # at least 1 us, so that no moment is in both periods

    is_judged = user_share < judged_users_ratio
    before = np.flatnonzero((exited_us <= test_from - gap_us) & ~is_judged)
    test = np.flatnonzero((exited_us >= test_from) & is_judged)
    cut = 0
    if len(before):
        validation_from = exited_us[before[int(len(before) * (1 - VALIDATION_RATIO))]]
        cut = int(np.searchsorted(exited_us[before], validation_from, side="left"))
    aside = np.setdiff1d(np.arange(count), np.concatenate([before, test]), assume_unique=True)
    return Split(before[:cut], before[cut:], aside, test, gap_us, test_from)
