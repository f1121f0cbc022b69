"""Baselines: the fit's average for every exit, and a logistic regression.

Both learn from the same rows as the model and are measured on the same test rows. The model has earned its complexity if the
interval of its gain over the regression excludes zero. Otherwise the card warns.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from scoring.features import FeatureContract, Matrix
from training.evaluation.bootstrap import RESAMPLES, Interval, affordable, clusters, draws, interval, resampled
from training.evaluation.metrics import Floats, Labels, losses, measure
from training.evaluation.ranking import Ranking

BASE_RATE, LOGISTIC_REGRESSION = "base rate", "logistic regression"
# This many rows give a regression of some 60 columns to three digits. More rows only take longer.
MAX_ROWS = 100_000


@dataclass(frozen=True)
class Gain:
    """How much better the model is by one measure. Above 0 is better, also for measures where less is better."""

    value: float
    interval: Interval

    @property
    def is_certain(self) -> bool:
        """Whether the model is better, with an interval that excludes zero."""
        return self.interval[0] > 0


@dataclass(frozen=True)
class Baseline:
    """A simpler model on the test exits: its metrics, and the main model's gain over it in brier, log_loss and auc."""

    name: str
    metrics: dict[str, float]
    gains: dict[str, Gain]

    @property
    def is_beaten(self) -> bool:
        """Whether the model's Brier score is better, by an interval that excludes zero."""
        return self.gains["brier"].is_certain


def predictions(contract: FeatureContract, fit: tuple[Matrix, Labels], test: Matrix, *, seed: int) -> dict[str, Floats]:
    """Fit both baselines and return the probabilities of each for the test rows, by its name."""
    matrix, label = fit
    if len(label) > MAX_ROWS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(label), MAX_ROWS, replace=False))
        matrix, label = matrix[chosen], label[chosen]
    regression = _Regression(contract, matrix)
    with warnings.catch_warnings():
        # A fit that ran out of steps still predicts, and is measured as it is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.pipeline.fit(regression.columns(matrix), label)
    answered = cast(Floats, regression.pipeline.predict_proba(regression.columns(test))[:, 1])
    return {BASE_RATE: np.full(len(test), float(fit[1].mean())), LOGISTIC_REGRESSION: answered}


class _Regression:
    """A logistic regression over a contract's matrix, where missing is NaN and a category its index.

    A missing number becomes the median, and a column of its own marks it. Scikit-learn's imputer does the same with masked
    arrays, which took longer than the regression.
    """

    def __init__(self, contract: FeatureContract, fit: Matrix) -> None:
        self.numbers = [i for i, f in enumerate(contract.features) if f.type == "number"]
        categories = [i for i, f in enumerate(contract.features) if f.type == "category"]
        known = [column[~np.isnan(column)] for column in fit[:, self.numbers].T]
        self.medians = np.array([np.median(column) if len(column) else 0.0 for column in known])
        self.gaps = np.array([len(column) < len(fit) for column in known], dtype=bool)
        told = len(contract.features) + np.arange(self.gaps.sum())
        parts = [
            ("numbers", StandardScaler(), [*self.numbers, *told.tolist()]),
            # Missing is a level of its own. A level that occurs only in the test is all zeros.
            ("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False), categories),
        ]
        regression = LogisticRegression(solver="lbfgs", max_iter=300)
        self.pipeline = Pipeline([("columns", ColumnTransformer(parts)), ("regression", regression)])

    def columns(self, matrix: Matrix) -> Floats:
        """Return the matrix with its gaps filled, and a column for each number that has gaps in the fit."""
        filled = matrix.astype(np.float64)
        is_missing = np.isnan(filled[:, self.numbers])
        filled[:, self.numbers] = np.where(is_missing, self.medians, filled[:, self.numbers])
        return np.column_stack([filled, is_missing[:, self.gaps]])


def against(
    label: Labels, users: Any, ours: Floats, theirs: Mapping[str, Floats], *, train_rate: float, seed: int
) -> tuple[Baseline, ...]:
    """Measure each of `theirs` on the test rows, and how much better `ours` is."""
    codes = clusters(users)
    return tuple(
        Baseline(name, measure(label, answer, train_rate=train_rate), compare(label, codes, ours, answer, seed=seed))
        for name, answer in theirs.items()
    )


def compare(
    label: Labels, users: Any, ours: Floats, theirs: Floats, *, seed: int, resamples: int = RESAMPLES
) -> dict[str, Gain]:
    """Return by how much `ours` is better than `theirs` in brier, log_loss and auc, on the same draws of users.

    The comparison is paired: both are measured on each draw, so the difficulty of a draw cancels out.
    """
    resamples = affordable(len(label), resamples)
    codes = clusters(users)
    # Squared error and log loss. The column between them is the base rate's, equal for both.
    differences = (losses(label, theirs, train_rate=0.5) - losses(label, ours, train_rate=0.5))[:, [0, 2]]
    means = resampled(differences, codes, seed, resamples)
    rankings = Ranking(label, ours), Ranking(label, theirs)
    drawn = (weights[codes] for weights in draws(int(codes.max()) + 1, seed, resamples))
    ranked = np.array([rankings[0].auc(weights) - rankings[1].auc(weights) for weights in drawn])
    brier, log_loss = differences.mean(axis=0).tolist()
    return {
        "brier": Gain(brier, interval(means[:, 0])),
        "log_loss": Gain(log_loss, interval(means[:, 1])),
        "auc": Gain(rankings[0].auc() - rankings[1].auc(), interval(ranked)),
    }
