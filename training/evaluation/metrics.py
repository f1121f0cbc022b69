"""Measures of probabilities and ranking, on exits that the model never saw.

The Brier score is compared with that of always predicting the training period's rate. A model that does not beat it has learned
nothing useful. Every measure has a 95% interval over draws of users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scoring.shared_values import MIN_USERS
from training.evaluation.bootstrap import (
    RESAMPLES,
    Interval,
    affordable,
    clusters,
    draws,
    interval,
    reflected,
    resampled,
)
from training.evaluation.ranking import Ranking

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

COUNT_BINS = 10
LIFT_RATIO = 0.10
MIN_SLICE_USERS = MIN_USERS  # smaller slices say little about the model and too much about people
MAX_SLICES = 12
# Slice intervals are only shown in tables. 200 draws give the ends of an interval to a tenth of its width.
SLICE_RESAMPLES = 200
_EPSILON = 1e-15


@dataclass(frozen=True)
class Bin:
    """Exits with about the same predicted probability: their mean prediction and observed rate."""

    predicted: float
    observed: float
    count: int


@dataclass(frozen=True)
class Slice:
    """One part of the test exits. `auc` is None where all have one outcome; its interval is over draws of users."""

    name: str
    count: int
    predicted: float
    observed: float
    auc: float | None
    calibration_error: float | None = None
    auc_interval: Interval | None = None


def measure(label: Labels, probability: Floats, *, train_rate: float) -> dict[str, float]:
    """Return the metrics of a test set that holds both labels."""
    squared, baseline, log = losses(label, probability, train_rate=train_rate).mean(axis=0).tolist()
    return {
        "base_rate": float(label.mean()),
        "brier": squared,
        "brier_baseline": baseline,
        "brier_skill": 1 - squared / baseline,
        "log_loss": log,
        "calibration_error": calibration_error(label, probability),
        **Ranking(label, probability).measures(),
    }


def intervals(
    label: Labels, probability: Floats, users: Any, *, train_rate: float, seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Return the 95% interval of each metric of `measure`, by drawing users; `users` holds each row's user id.

    The interval of the calibration error is the reflected one: noise raises a mean distance, and again in each draw.
    """
    resamples = affordable(len(label), resamples)
    codes = clusters(users)
    distances = np.zeros((len(label), COUNT_BINS))
    for position, part in enumerate(_bins(probability)):
        distances[part, position] = probability[part] - label[part]
    columns = np.column_stack([label, losses(label, probability, train_rate=train_rate), distances])
    means = resampled(columns, codes, seed, resamples)
    rate, squared, baseline, log = means[:, :4].T
    samples = {
        "base_rate": rate,
        "brier": squared,
        "brier_baseline": baseline,
        "brier_skill": 1 - squared / baseline,
        "log_loss": log,
    }
    ranking = Ranking(label, probability)
    ranked = [ranking.measures(drawn[codes]) for drawn in draws(int(codes.max()) + 1, seed, resamples)]
    samples |= {name: np.array([each[name] for each in ranked]) for name in ranked[0]}
    found = {name: interval(values) for name, values in samples.items()}
    low, high = reflected(calibration_error(label, probability), np.abs(means[:, 4:]).sum(axis=1))
    return found | {"calibration_error": (max(low, 0.0), max(high, 0.0))}


def losses(label: Labels, probability: Floats, *, train_rate: float) -> Floats:
    """Return each row's squared error, the squared error of always predicting `train_rate`, and log loss; shape (rows, 3)."""
    told = np.where(label == 1, probability, 1 - probability)
    log = -np.log(np.clip(told, _EPSILON, 1.0))
    return np.column_stack([(probability - label) ** 2, (train_rate - label) ** 2, log])


def calibration_bins(label: Labels, probability: Floats) -> list[Bin]:
    """Cut the rows, by rising probability, into bins of equal count."""
    parts = _bins(probability)
    return [Bin(float(probability[p].mean()), float(label[p].mean()), len(p)) for p in parts if len(p)]


def calibration_error(label: Labels, probability: Floats) -> float:
    """Return the mean distance of predicted and observed rate over `calibration_bins` (ECE; Naeini, AAAI 2015)."""
    return sum(b.count * abs(b.predicted - b.observed) for b in calibration_bins(label, probability)) / len(label)


def lift(label: Labels, probability: Floats) -> float:
    """Return the rate in the tenth with the highest probabilities, divided by the base rate."""
    return Ranking(label, probability).measures()["lift_at_10_percent"]


def auc(label: Labels, probability: Floats) -> float | None:
    """Return the AUC, or None where there is only one label."""
    return Ranking(label, probability).auc() if 0 < label.sum() < len(label) else None


def all_slices(
    parts: Mapping[str, Sequence[str | None]], label: Labels, probability: Floats, users: Any, *, seed: int
) -> dict[str, list[Slice]]:
    """Measure the slices of each way to cut the rows, as `slices` does. A way without a large enough slice is left out."""
    codes = clusters(users)
    measured = {name: slices(names, label, probability, codes, seed=seed) for name, names in parts.items()}
    # A single part that holds every row is not a slice: the card already shows all rows.
    return {name: found for name, found in measured.items() if found and found[0].count < len(label)}


def slices(
    names: Sequence[str | None], label: Labels, probability: Floats, users: Any = None, *, seed: int = 0
) -> list[Slice]:
    """Measure each named part on its own, in the order of their names; only the 12 largest, and no small parts.

    `users` holds each row's user. Without it, every row counts as a user.
    """
    keys = np.array(["unknown" if name is None else name for name in names], dtype=np.str_)
    codes = np.arange(len(label)) if users is None else clusters(users)
    parts = [(key, keys == key) for key in np.unique(keys)]
    parts = [part for part in parts if len(np.unique(codes[part[1]])) >= MIN_SLICE_USERS]
    parts.sort(key=lambda part: -int(part[1].sum()))
    return [
        _slice(str(key), label[rows], probability[rows], codes[rows], seed)
        for key, rows in sorted(parts[:MAX_SLICES], key=_name)
    ]


def _slice(name: str, label: Labels, probability: Floats, users: npt.NDArray[np.int64], seed: int) -> Slice:
    ranked = auc(label, probability)
    between = None
    if ranked is not None:
        ranking, codes = Ranking(label, probability), clusters(users)
        drawn = draws(int(codes.max()) + 1, seed, SLICE_RESAMPLES)
        between = interval(np.array([ranking.auc(weights[codes]) for weights in drawn]))
    error = calibration_error(label, probability)
    return Slice(name, len(label), float(probability.mean()), float(label.mean()), ranked, error, between)


def _name(part: tuple[np.str_, npt.NDArray[np.bool_]]) -> str:
    return str(part[0])


def _bins(probability: Floats) -> list[npt.NDArray[np.int64]]:
    return np.array_split(np.argsort(probability, kind="stable"), COUNT_BINS)
