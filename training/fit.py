"""How is a booster fitted? By XGBoost's own early stopping, on the examples as they are.

Nothing is resampled or weighted: both distort the probabilities that vouchers are decided on (arXiv 2606.29720:
undersampling took the calibration error from .008 to .395).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import xgboost as xgb

from scoring.contract import FeatureContract, Matrix
from training.evaluate import Floats, Labels

MAX_ROUNDS = 800
EARLY_STOPPING_ROUNDS = 40
PARAMETERS: dict[str, Any] = {
    "objective": "binary:logistic",
    "eval_metric": "logloss",
    "tree_method": "hist",
    "max_depth": 4,
    "eta": 0.05,
    "subsample": 0.6,
    "colsample_bytree": 0.5,
    "lambda": 10,
}
# Exits of one user resemble each other, and time passes between fit and use: small leaves learn yesterday's users by heart.
# On the loan log, leaves of a weight of 100 instead of 10 took the AUC of later exits from .836 to .853.
LEAF_RATIO, MIN_LEAF_WEIGHT, MAX_LEAF_WEIGHT = 1 / 100, 1, 100


class Fitter:
    """Fits one contract's boosters. The number of threads changes the time, not the model."""

    def __init__(self, contract: FeatureContract, *, seed: int, threads: int) -> None:
        self.contract = contract
        self.parameters = {**PARAMETERS, "seed": seed, "nthread": threads}

    def rounds(self, fit: tuple[Matrix, Labels], validation: tuple[Matrix, Labels]) -> tuple[xgb.Booster, int]:
        """Fit until the validation rows' log loss has stopped improving; return the best booster and its rounds."""
        booster = xgb.train(
            self._for(len(fit[1])),
            self._data(*fit),
            MAX_ROUNDS,
            evals=[(self._data(*validation), "validation")],
            early_stopping_rounds=EARLY_STOPPING_ROUNDS,
            verbose_eval=False,
        )
        best = int(booster.best_iteration) + 1
        return booster[:best], best

    def fixed(self, matrix: Matrix, label: Labels, rounds: int) -> xgb.Booster:
        """Fit this many rounds."""
        return xgb.train(self._for(len(label)), self._data(matrix, label), rounds)

    def probability(self, booster: xgb.Booster, matrix: Matrix) -> Floats:
        """Return the probability of label 1 of each row."""
        return cast(Floats, booster.predict(self._data(matrix)).astype(np.float64))

    def contributions(self, booster: xgb.Booster, matrix: Matrix) -> Floats:
        """Return each feature's mean part in the log odds, whatever its sign; shape (features,).

        The approximation that scoring uses for reasons too.
        """
        parts = booster.predict(self._data(matrix), pred_contribs=True, approx_contribs=True)
        return cast(Floats, np.abs(parts[:, :-1]).mean(axis=0).astype(np.float64))

    def _for(self, rows: int) -> dict[str, Any]:
        weight = min(max(LEAF_RATIO * rows, MIN_LEAF_WEIGHT), MAX_LEAF_WEIGHT)
        return {**self.parameters, "min_child_weight": weight}

    def _data(self, matrix: Matrix, label: Labels | None = None) -> xgb.DMatrix:
        return xgb.DMatrix(
            matrix,
            label,
            feature_names=self.contract.names,
            feature_types=self.contract.feature_types,
            enable_categorical=True,
            nthread=self.parameters["nthread"],
        )
