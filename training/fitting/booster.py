"""Fits a booster with XGBoost's early stopping, without resampling or weighting the examples.

Both would distort the probabilities that vouchers are decided on. arXiv 2606.29720: undersampling raised the calibration error
from .008 to .395.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import xgboost as xgb

from scoring.features import FeatureContract, Matrix
from training.evaluation.metrics import Floats, Labels

MAX_ROUNDS = 800
EARLY_STOPPING_ROUNDS = 40
Parameters = dict[str, Any]
PARAMETERS: Parameters = {
    "objective": "binary:logistic",
    "eval_metric": "logloss",
    "tree_method": "hist",
    "max_depth": 4,
    "eta": 0.05,
    "subsample": 0.6,
    "colsample_bytree": 0.5,
    "lambda": 10,
    # Minimum weight of a leaf: this share of the rows, capped by `max_leaf_weight`.
    # Exits of one user resemble each other, and the data changes between fit and use. Small leaves overfit individual users.
    # On the loan log, a leaf weight of 100 instead of 10 raised the AUC of later exits from .836 to .853.
    "leaf_ratio": 1 / 100,
    "max_leaf_weight": 100,
}


@dataclass(frozen=True)
class Fitted:
    """A booster cut to its best round, the number of its rounds, and its log loss on the validation rows."""

    booster: xgb.Booster
    rounds: int
    log_loss: float


class Fitter:
    """Fits one contract's boosters. The number of threads changes the time, not the model."""

    def __init__(
        self, contract: FeatureContract, *, seed: int, threads: int, parameters: Parameters | None = None
    ) -> None:
        """`parameters` replace some of `PARAMETERS`."""
        self.contract = contract
        self.parameters = {**PARAMETERS, **(parameters or {}), "seed": seed, "nthread": threads}

    def fit(self, matrix: Matrix, label: Labels, validation: tuple[Matrix, Labels]) -> Fitted:
        """Fit until the validation rows' log loss has stopped improving."""
        booster = xgb.train(
            self.settings(len(label)),
            self.data(matrix, label),
            MAX_ROUNDS,
            evals=[(self.data(*validation), "validation")],
            early_stopping_rounds=EARLY_STOPPING_ROUNDS,
            verbose_eval=False,
        )
        rounds = int(booster.best_iteration) + 1
        return Fitted(booster[:rounds], rounds, float(booster.best_score))

    def probability(self, booster: xgb.Booster, matrix: Matrix) -> Floats:
        """Return the probability of label 1 of each row."""
        return cast(Floats, booster.predict(self.data(matrix)).astype(np.float64))

    def contributions(self, booster: xgb.Booster, matrix: Matrix) -> Floats:
        """Return each feature's contribution to each row's log odds; shape (rows, features).

        Uses the same approximation as the reasons that scoring gives.
        """
        parts = booster.predict(self.data(matrix), pred_contribs=True, approx_contribs=True)
        return cast(Floats, parts[:, :-1].astype(np.float64))

    def settings(self, rows: int) -> Parameters:
        """Return XGBoost's settings for a fit of `rows` rows."""
        parameters = dict(self.parameters)
        weight = min(max(parameters.pop("leaf_ratio") * rows, 1), parameters.pop("max_leaf_weight"))
        constraints = self.contract.monotone_constraints
        return {
            **parameters,
            "min_child_weight": weight,
            **({"monotone_constraints": constraints} if any(constraints) else {}),
        }

    def data(self, matrix: Matrix, label: Labels | None = None) -> xgb.DMatrix:
        """Return the rows as an XGBoost matrix."""
        return xgb.DMatrix(
            matrix,
            label,
            feature_names=self.contract.names,
            feature_types=self.contract.feature_types,
            enable_categorical=True,
            nthread=self.parameters["nthread"],
        )
