"""How good were the probabilities? Measured as a ranking and as probabilities, on exits that the model never saw.

The Brier score is also compared with that of always answering the training period's rate: a model that cannot beat
that has learned nothing of use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

COUNT_BINS = 10
LIFT_RATIO = 0.10
MIN_SLICE_ROWS = 50  # below that a slice says little about the model and too much about people
MAX_SLICES = 8


@dataclass(frozen=True)
class Bin:
    """Exits of about the same predicted probability: their mean prediction, and the rate that came to pass."""

    predicted: float
    observed: float
    count: int


@dataclass(frozen=True)
class Slice:
    """One part of the test exits. `auc` is None where all of them ended alike."""

    name: str
    count: int
    predicted: float
    observed: float
    auc: float | None


def measure(label: Labels, probability: Floats, *, train_rate: float) -> dict[str, float]:
    """Return the metrics of a test set that holds both labels."""
    brier = float(np.mean((probability - label) ** 2))
    baseline = float(np.mean((train_rate - label) ** 2))
    return {
        "base_rate": float(label.mean()),
        "auc": float(roc_auc_score(label, probability)),
        "average_precision": float(average_precision_score(label, probability)),
        "brier": brier,
        "brier_baseline": baseline,
        "brier_skill": 1 - brier / baseline,
        "log_loss": float(log_loss(label, probability)),
        "calibration_error": calibration_error(label, probability),
        "lift_at_10_percent": lift(label, probability),
    }


def calibration_bins(label: Labels, probability: Floats) -> list[Bin]:
    """Cut the rows, by rising probability, into bins of equal count."""
    parts = np.array_split(np.argsort(probability, kind="stable"), COUNT_BINS)
    return [Bin(float(probability[p].mean()), float(label[p].mean()), len(p)) for p in parts if len(p)]


def calibration_error(label: Labels, probability: Floats) -> float:
    """Return the mean distance of predicted and observed rate over `calibration_bins` (ECE, AAAI 2015, Naeini)."""
    return sum(b.count * abs(b.predicted - b.observed) for b in calibration_bins(label, probability)) / len(label)


def lift(label: Labels, probability: Floats) -> float:
    """Return how many times the base rate the tenth with the highest probabilities holds."""
    top = np.argsort(-probability, kind="stable")[: max(1, int(len(label) * LIFT_RATIO))]
    return float(label[top].mean() / label.mean())


def slices(names: list[str | None], label: Labels, probability: Floats) -> list[Slice]:
    """Measure each named part on its own, the largest first; small parts are left out."""
    keys = np.array(["unknown" if name is None else name for name in names], dtype=np.str_)
    parts = [(key, keys == key) for key in np.unique(keys)]
    parts = sorted((p for p in parts if p[1].sum() >= MIN_SLICE_ROWS), key=lambda p: -int(p[1].sum()))[:MAX_SLICES]
    return [_slice(str(key), label[rows], probability[rows]) for key, rows in parts]


def _slice(name: str, label: Labels, probability: Floats) -> Slice:
    return Slice(name, len(label), float(probability.mean()), float(label.mean()), auc(label, probability))


def auc(label: Labels, probability: Floats) -> float | None:
    """Return the AUC, or None where there is only one label."""
    return float(roc_auc_score(label, probability)) if 0 < label.sum() < len(label) else None
