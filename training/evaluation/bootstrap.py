"""Bootstrap intervals: users are drawn with replacement, each with all of their exits.

Exits of one user resemble each other. Drawing single exits would make every interval too narrow (by half, if four exits of a user
all end the same way). Each draw holds as many users as there are, so it is a weight per user, and every measure takes weights.
No rows are copied, and memory stays at a few numbers per row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Interval = tuple[float, float]

RESAMPLES = 500
# Above 20,000 rows, fewer draws bound the time. 200 draws give the ends of an interval to a tenth of its width.
MIN_RESAMPLES = 200
MAX_RESAMPLED_ROWS = RESAMPLES * 20_000


def clusters(users: Any) -> Codes:
    """Number the users from 0 in the order of their ids: one number per row, independent of the order of the rows.

    `users` is an array of ids (numpy or Arrow, text or integers) without nulls.
    """
    ids = users.combine_chunks() if isinstance(users, pa.ChunkedArray) else pa.array(users)
    encoded = ids.dictionary_encode()
    rank = np.empty(len(encoded.dictionary), dtype=np.int64)
    rank[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(rank))
    codes: Codes = rank[encoded.indices.to_numpy()]
    return codes


def affordable(count_rows: int, resamples: int = RESAMPLES) -> int:
    """Return the number of draws taken for this many rows, at most `resamples`."""
    return min(resamples, max(MIN_RESAMPLES, MAX_RESAMPLED_ROWS // count_rows))


def draws(count_users: int, seed: int, resamples: int = RESAMPLES) -> Iterator[Floats]:
    """Yield, for each resample, how often each user was drawn, shape (count_users,).

    The same count and seed yield the same draws, so measures over two such runs are paired.
    """
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = rng.integers(0, count_users, count_users)
        yield np.bincount(drawn, minlength=count_users).astype(np.float64)


def resampled(values: Floats, users: Any, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Return the mean of each column in each resample, shape (resamples, columns), of values of shape (rows, columns).

    `users` holds each row's user. The mean is over rows, so a user with many exits weighs more, as in the plain mean.
    For a paired comparison, pass a column of differences.
    """
    codes = clusters(users)
    count = int(codes.max()) + 1
    columns = [np.bincount(codes, column, count) for column in np.asarray(values, dtype=np.float64).T]
    sums = np.column_stack([*columns, np.bincount(codes, minlength=count)])
    totals = np.stack([weights @ sums for weights in draws(count, seed, resamples)])
    means: Floats = totals[:, :-1] / totals[:, -1:]
    return means


def interval(samples: Floats, level: float = 0.95) -> Interval:
    """Return the middle `level` of the resamples of one measure (percentile interval, Efron).

    Resamples that could not be measured are NaN and are ignored. If all are NaN, both ends are NaN.
    """
    measured = samples[~np.isnan(samples)]
    if not len(measured):
        return float("nan"), float("nan")
    low, high = np.quantile(measured, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def reflected(estimate: float, samples: Floats, level: float = 0.95) -> Interval:
    """Return the resamples' interval turned about the estimate (basic interval, Davison and Hinkley 1997, 5.2).

    For a measure that noise can only raise, such as a mean distance. Each resample adds the noise a second time, so the
    percentile interval may lie wholly above the estimate.
    """
    low, high = interval(samples, level)
    return 2 * estimate - high, 2 * estimate - low
