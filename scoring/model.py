"""What does the model say of a matrix of features?"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import xgboost as xgb

from scoring.bundles import Bundle
from scoring.contract import Matrix


class Model:
    """A bundle's booster, in memory."""

    def __init__(self, bundle: Bundle, *, threads: int = 0) -> None:
        """Load the booster; `threads` 0 uses every core."""
        self.version = bundle.version
        self.contract = bundle.contract
        self._calibration = bundle.calibration
        self._booster = xgb.Booster({"nthread": threads}, model_file=str(bundle.model_path))

    def predict(self, matrix: Matrix) -> npt.NDArray[np.float32]:
        """Return the churn probability of each row, calibrated, shape (rows,)."""
        return self._calibration.apply(cast(npt.NDArray[np.float32], self._booster.inplace_predict(matrix)))

    def contributions(self, matrix: Matrix) -> npt.NDArray[np.float32]:
        """Return each feature's part in each row's log odds, shape (rows, features).

        XGBoost's approximation, not exact Shapley values: those take about 100 times as long, and the three largest are
        nearly always the same.
        """
        data = xgb.DMatrix(
            matrix,
            feature_names=self.contract.names,
            feature_types=self.contract.feature_types,
            enable_categorical=True,
        )
        parts = self._booster.predict(data, pred_contribs=True, approx_contribs=True)
        return cast(npt.NDArray[np.float32], parts[:, :-1])  # the last column is the bias
