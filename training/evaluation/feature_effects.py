"""Effect of each feature: predicted and observed rate along the feature's values.

Each point covers at least 50 users, so that a plot reveals no single user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scoring.features import Feature, FeatureContract, Matrix
from scoring.shared_values import MIN_USERS
from training.evaluation.bootstrap import clusters
from training.evaluation.metrics import Floats, Labels

COUNT_EFFECTS = 6
COUNT_BINS = 10
MAX_LEVELS = 8


@dataclass(frozen=True)
class Point:
    """Exits with similar values of one feature. `value` is their mean; None for a category level or for missing, see `name`."""

    name: str
    value: float | None
    count: int
    predicted: float
    observed: float
    contribution: float


@dataclass(frozen=True)
class Effect:
    """A feature's points: numbers by rising value, levels by falling prediction; missing last."""

    feature: str
    points: tuple[Point, ...]


def effects(
    contract: FeatureContract,
    matrix: Matrix,
    label: Labels,
    probability: Floats,
    contributions: Floats,
    *,
    users: Any = None,
) -> list[Effect]:
    """Return the effects of the six features with the largest mean contribution, the largest first.

    All arrays describe the same sample of test rows. `contributions` are signed, in log odds, of shape (rows, features). `users`
    holds each row's user. The mean prediction includes correlated features; the contribution (SHAP) is this feature alone.
    """
    codes = np.arange(len(label)) if users is None else clusters(users)
    largest = np.argsort(-np.abs(contributions).mean(axis=0), kind="stable")[:COUNT_EFFECTS]
    found = []
    for position in largest.tolist():
        feature = contract.features[position]
        points = []
        for name, value, rows in _parts(feature, matrix[:, position]):
            if len(np.unique(codes[rows])) >= MIN_USERS:
                means = [float(each[rows].mean()) for each in (probability, label, contributions[:, position])]
                points.append(Point(name, value, len(rows), *means))
        if feature.type == "category":
            points.sort(key=lambda p: (p.name == "missing", -p.predicted))
        if points:
            found.append(Effect(feature.name, tuple(points)))
    return found


def _parts(feature: Feature, column: Matrix) -> list[tuple[str, float | None, npt.NDArray[np.int64]]]:
    missing = np.flatnonzero(np.isnan(column))
    given = np.flatnonzero(~np.isnan(column))
    parts: list[tuple[str, float | None, npt.NDArray[np.int64]]] = []
    if feature.type == "category":
        levels = [(name, np.flatnonzero(column == index)) for index, name in enumerate(feature.categories)]
        levels.sort(key=lambda level: -len(level[1]))
        parts = [(name, None, rows) for name, rows in levels[:MAX_LEVELS]]
    elif len(given):
        inner = np.unique(np.quantile(column[given], np.linspace(0, 1, COUNT_BINS + 1)[1:-1]))
        places = np.searchsorted(inner, column[given].astype(np.float64), side="left")
        for place in np.unique(places):
            rows = given[places == place]
            mean = float(column[rows].mean())
            parts.append((f"{mean:.4g}", mean, rows))
    return [*parts, ("missing", None, missing)]
