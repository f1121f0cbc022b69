"""Population stability index of each feature against the last model's training rows.

0 means the same distribution. Rule of thumb in credit scoring (Siddiqi, Credit Risk Scorecards, 2006): below 0.1 is stable, above
0.25 is another population. A bundle keeps the distribution of its fit rows in `reference.json`: shares, and bin edges. No edge is
a value of fewer than 50 users.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from scoring.features import Feature, FeatureContract, Matrix
from scoring.registry.bundle_files import checked, read_object
from scoring.registry.bundles import Bundle
from scoring.shared_values import SharedNumbers

COUNT_BINS = 10
# This many rows, evenly spaced, give a share of a tenth to a thousandth.
MAX_ROWS = 100_000
LARGE = 0.25
# An empty bin would make the index infinite, so it counts as one exit in 10,000.
_SMALLEST_SHARE = 1e-4


class Distribution(BaseModel):
    """Shares of a feature: of missing values first, then of each bin between `edges`, or of each of `levels`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    shares: tuple[float, ...]


class Reference(BaseModel):
    """The distribution of each feature in the rows that a model learned from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: dict[str, Distribution]


def reference(contract: FeatureContract, matrix: Matrix, users: npt.NDArray[Any] | None = None) -> Reference:
    """Describe the encoded fit rows; numbers in bins of equal count. `users` holds each row's user."""
    described = {}
    matrix, users = _some(matrix), None if users is None else _some(users)
    for position, feature in enumerate(contract.features):
        column = matrix[:, position]
        edges: tuple[float, ...] = ()
        if feature.type == "number" and not np.isnan(column).all():
            inner = np.nanquantile(column, np.linspace(0, 1, COUNT_BINS + 1)[1:-1])
            numbers = SharedNumbers(column, users)
            edges = tuple(sorted({float(numbers.above(edge)) for edge in inner}))
        shares = _shares(feature, column, edges, feature.categories)
        described[feature.name] = Distribution(edges=edges, levels=feature.categories, shares=shares)
    return Reference(features=described)


def last_reference(last: Bundle | None) -> Reference | None:
    """Return the distribution that the bundle in use learned from. None without a bundle, or if it has no such file.

    Raises: ContractError when the file is damaged.
    """
    file = last.folder / "reference.json" if last else None
    if last is None or file is None or not file.is_file():
        return None
    return checked(Reference, read_object(file, last.version), last.version, file.name)


def stability(contract: FeatureContract, matrix: Matrix, before: Reference) -> list[tuple[str, float]]:
    """Return each feature's index between the rows and the reference, the largest first.

    A feature that is not in the reference is left out.
    """
    found = []
    matrix = _some(matrix)
    for position, feature in enumerate(contract.features):
        if then := before.features.get(feature.name):
            now = np.array(_shares(feature, matrix[:, position], then.edges, then.levels))
            shares = [np.maximum(s, _SMALLEST_SHARE) for s in (now, np.array(then.shares))]
            found.append((feature.name, float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum())))
    return sorted(found, key=lambda each: (-each[1], each[0]))


def _some(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return rows[:: -(-len(rows) // MAX_ROWS) or 1]


def _shares(feature: Feature, column: Matrix, edges: tuple[float, ...], levels: tuple[str, ...]) -> tuple[float, ...]:
    is_missing = np.isnan(column)
    given = column[~is_missing]
    if feature.type == "number":
        # In float64, so that an edge equal to a value falls on the same side as before.
        places = np.searchsorted(np.array(edges), given.astype(np.float64), side="left")
        counts = np.bincount(places, minlength=len(edges) + 1)
    else:
        # Levels that are not in the reference share one more bin, the last.
        known = {level: place for place, level in enumerate(levels)}
        places = np.array([known.get(level, len(levels)) for level in feature.categories], dtype=np.int64)
        counts = np.bincount(places[given.astype(np.int64)] if len(places) else [], minlength=len(levels) + 1)
    shares = np.concatenate([[is_missing.sum()], counts]) / max(len(column), 1)
    return tuple(shares.tolist())
