"""Reasons of a user's risk, in phrases for marketing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from scoring.features import FeatureContract, Matrix
from scoring.shared_values import is_wording

COUNT_REASONS = 3
SEPARATOR = "; "


def reasons(contract: FeatureContract, matrix: Matrix, contributions: npt.NDArray[np.float32]) -> pa.Array:
    """Return up to three phrases per row, joined by `; `, strongest first; null if nothing raises the risk.

    A feature counts only if it raises the risk, has phrases in the contract, and its value is known: a missing value explains
    nothing. Shapes: matrix and contributions (rows, features).
    """
    if not len(matrix):
        return pa.array([], pa.string())
    phrases, offsets = _phrases(contract)
    # The phrase of each value: for a category by its index, for a number by its side of the median. The top of the range is never
    # "low": if most users filed last year, the median is 1, and a user who filed must not get the phrase for one who did not.
    medians = np.array([np.nan if f.median is None else f.median for f in contract.features], dtype=np.float32)
    tops = np.array([f.range[1] if f.range else np.nan for f in contract.features], dtype=np.float32)
    is_category = np.array([f.type == "category" for f in contract.features])
    within = np.where(is_category, np.nan_to_num(matrix), (matrix > medians) | (matrix >= tops))
    said = offsets + within.astype(np.int64)
    has_words = phrases.is_valid().to_numpy(zero_copy_only=False)[said]
    strength = np.where(has_words & ~np.isnan(matrix), contributions, -np.inf)

    columns = []
    for _ in range(min(COUNT_REASONS, strength.shape[1])):
        best = np.argmax(strength, axis=1)
        rows = np.arange(len(matrix))
        phrase = phrases.take(pa.array(said[rows, best]))
        counts = strength[rows, best] > 0
        columns.append(pc.if_else(pa.array(counts), phrase, pa.scalar(None, pa.string())))
        strength[rows, best] = -np.inf
    # Without a strongest reason a row has none. Such a row must not be all nulls: the join would leave it out, and every later
    # row would get its neighbour's reasons (observed with pyarrow 26.0.1; narwhals-dev/narwhals#3965).
    columns[0] = pc.fill_null(columns[0], "")
    joined = pc.binary_join_element_wise(*columns, SEPARATOR, null_handling="skip")
    return pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), joined)


def _phrases(contract: FeatureContract) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Return all phrases in one list, and where each feature's begin: low and high, or one for each category.

    A category has a phrase only if it looks like a name and is not `rest`. In older bundles, whose phrases may hold a semicolon,
    it becomes a comma, so that each phrase stays one.
    """
    phrases: list[str | None] = []
    offsets = []
    for feature in contract.features:
        offsets.append(len(phrases))
        if feature.type == "category":
            template = feature.reason
            phrases += [
                template.replace("{value}", c.replace("_", " "))
                if template and c != feature.rest and is_wording(c)
                else None
                for c in feature.categories
            ]
            phrases += [] if feature.categories else [None]
        else:
            phrases += [feature.low, feature.high]
    whole = [phrase and phrase.replace(";", ",") for phrase in phrases]
    return pa.array(whole, pa.string()), np.array(offsets, dtype=np.int64)
