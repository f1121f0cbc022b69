"""Chooses a calibration map, only if one fitted on half of the validation users improves the other half.

Boosted trees fitted to the log loss are mostly calibrated already, and a map fitted to noise makes them worse. A map is used only
if the confidence interval of its gain in Brier score lies above zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from scoring.calibration import Calibration, log_odds
from training.evaluation.bootstrap import affordable, resampled
from training.evaluation.metrics import Floats, Labels

MIN_ROWS = 1_000  # in each half; isotonic regression overfits on fewer (scikit-learn's guide says about 1,000)
MIN_LABELS = 50  # of each outcome, in each half
_CONFIDENCE = 95.0


def calibrate(
    label: Labels, probability: Floats, users: Any, is_first_half: npt.NDArray[np.bool_], seed: int
) -> Calibration:
    """Return the map that helps most, fitted on all rows, or `none`. `users` holds each row's user; no user is in both halves."""
    halves = (is_first_half, ~is_first_half)
    if any(half.sum() < MIN_ROWS or not MIN_LABELS <= label[half].sum() <= half.sum() - MIN_LABELS for half in halves):
        return Calibration()
    fitters: tuple[Callable[[Labels, Floats], Calibration], ...] = (platt, isotonic)
    gains = []
    for fitter in fitters:
        mended = np.empty_like(probability)
        for half in halves:
            mended[~half] = fitter(label[half], probability[half]).apply(probability[~half])
        gain = (probability - label) ** 2 - (mended - label) ** 2
        low = float(
            np.percentile(resampled(gain[:, None], users, seed, affordable(len(label))), (100 - _CONFIDENCE) / 2)
        )
        gains.append((float(gain.mean()) if low > 0 else 0.0, fitter))
    best, fitter = max(gains, key=lambda gained: gained[0])
    return fitter(label, probability) if best > 0 else Calibration()


def platt(label: Labels, probability: Floats) -> Calibration:
    """Fit a line through the log odds. Returns the map `none` when the line falls, because that is not a calibration."""
    line = LogisticRegression(C=np.inf).fit(log_odds(probability)[:, None], label)
    slope = float(line.coef_[0, 0])
    return Calibration(kind="platt", slope=slope, intercept=float(line.intercept_[0])) if slope > 0 else Calibration()


def isotonic(label: Labels, probability: Floats) -> Calibration:
    """Fit the nearest rising steps, never exactly 0 or 1, which this many rows cannot prove (Laplace's rule)."""
    least = 1 / (len(label) + 2)
    steps = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(probability, label)
    raw, true = steps.X_thresholds_.astype(float), steps.y_thresholds_.astype(float)
    return Calibration(kind="isotonic", raw=tuple(raw), true=tuple(true)) if len(raw) > 1 else Calibration()
