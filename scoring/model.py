"""The model of a bundle: probabilities and contributions for a matrix of features."""

from __future__ import annotations

import sys
from functools import cached_property
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from scoring.features import Matrix
from scoring.registry.bundle_files import damaged
from scoring.registry.bundles import Bundle


class Model:
    """A bundle's booster, loaded at its first use: a run with nothing to score saves 110 MB and three seconds."""

    def __init__(self, bundle: Bundle, *, threads: int = 0) -> None:
        """Store the bundle; `threads` 0 uses every core."""
        self.version = bundle.version
        self.contract = bundle.contract
        self._calibration = bundle.calibration
        self._path, self._threads = bundle.model_path, threads

    def predict(self, matrix: Matrix) -> npt.NDArray[np.float32]:
        """Return the churn probability of each row, calibrated, shape (rows,)."""
        return self._calibration.apply(cast(npt.NDArray[np.float32], self._booster.inplace_predict(matrix)))

    def contributions(self, matrix: Matrix) -> npt.NDArray[np.float32]:
        """Return each feature's contribution to each row's log odds, shape (rows, features).

        XGBoost's approximation, not exact Shapley values, which take about 100 times as long. The three largest are nearly
        always the same.
        """
        data = _xgboost().DMatrix(
            matrix,
            feature_names=self.contract.names,
            feature_types=self.contract.feature_types,
            enable_categorical=True,
        )
        parts = self._booster.predict(data, pred_contribs=True, approx_contribs=True)
        return cast(npt.NDArray[np.float32], parts[:, :-1])  # the last column is the bias

    @cached_property
    def _booster(self) -> Any:
        xgboost = _xgboost()
        try:
            booster = xgboost.Booster({"nthread": self._threads}, model_file=str(self._path))
            count = booster.num_features()
        except (xgboost.core.XGBoostError, ValueError):
            raise damaged(self.version, self._path.name, "XGBoost cannot read it") from None
        if count != len(self.contract.features):
            why = f"it has {count} features, its contract {len(self.contract.features)}"
            raise damaged(self.version, self._path.name, why)
        return booster


def _xgboost() -> Any:
    """Import XGBoost without its scikit-learn interface, which would load scikit-learn and pandas: 100 MB and two seconds."""
    if "xgboost" not in sys.modules and "sklearn" not in sys.modules:
        sys.modules["sklearn"] = cast(ModuleType, None)  # importing it fails, as if it were not installed
        try:
            import xgboost  # noqa: PLC0415
        finally:
            del sys.modules["sklearn"]
    import xgboost  # noqa: PLC0415

    return xgboost
