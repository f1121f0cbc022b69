"""Baselines: they get the same data as the model, which counts as better only beyond chance."""

import numpy as np
import pytest

from scoring.features import Feature, FeatureContract
from training.evaluation import baselines
from training.evaluation.baselines import BASE_RATE, LOGISTIC_REGRESSION
from training.evaluation.metrics import Floats, Labels

CONTRACT = FeatureContract(
    features=(
        Feature(name="effort", type="number", range=(-100, 100)),
        Feature(name="device_type", type="category", categories=("desktop", "mobile", "tablet")),
        Feature(name="never_given", type="number", range=(0, 1)),
    )
)


def a_linear_world(count: int, seed: int) -> tuple[Floats, Labels, Floats]:
    """Rows, labels and the true probabilities. A tenth of the numbers is missing, which is itself informative."""
    rng = np.random.default_rng(seed)
    effort, device = rng.normal(5, 3, count), rng.integers(0, 3, count).astype(np.float64)
    is_missing = rng.random(count) < 0.1
    log_odds = np.where(is_missing, 1.0, 0.5 * (effort - 5)) + np.array([-1.0, 0.0, 1.5])[device.astype(np.int64)]
    truth = 1 / (1 + np.exp(-log_odds))
    effort[is_missing] = np.nan
    matrix = np.column_stack([effort, device, np.full(count, np.nan)])
    return matrix, (rng.random(count) < truth).astype(np.int64), truth


def test_the_regression_finds_a_linear_truth_through_gaps_and_categories() -> None:
    matrix, label, _ = a_linear_world(20_000, 0)
    test, outcome, truth = a_linear_world(5_000, 1)
    answers = baselines.predictions(CONTRACT, (matrix.astype(np.float32), label), test.astype(np.float32), seed=0)
    assert float(np.abs(answers[LOGISTIC_REGRESSION] - truth).mean()) < 0.015
    assert np.unique(answers[BASE_RATE]).tolist() == [label.mean()]
    gains = baselines.compare(outcome, np.arange(5_000), truth, answers[LOGISTIC_REGRESSION], seed=0)
    assert gains["brier"].value == pytest.approx(0, abs=0.001)


def test_a_category_that_the_fit_never_held_is_answered_too() -> None:
    matrix, label, _ = a_linear_world(500, 0)
    known = matrix[:, 1] < 2
    answers = baselines.predictions(
        CONTRACT, (matrix[known].astype(np.float32), label[known]), matrix.astype(np.float32), seed=0
    )
    assert np.isfinite(answers[LOGISTIC_REGRESSION]).all()


def test_more_rows_than_are_needed_are_drawn_from_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MAX_ROWS", 300)
    matrix, label, _ = a_linear_world(900, 0)
    fit = (matrix.astype(np.float32), label)
    first, again, other = (baselines.predictions(CONTRACT, fit, fit[0], seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first[LOGISTIC_REGRESSION], again[LOGISTIC_REGRESSION])
    assert not np.array_equal(first[LOGISTIC_REGRESSION], other[LOGISTIC_REGRESSION])
    assert first[BASE_RATE][0] == label.mean()


def test_the_gain_is_the_difference_of_the_measures_and_its_interval_tells_noise_from_merit() -> None:
    _, label, truth = a_linear_world(4_000, 2)
    noise = np.random.default_rng(3).normal(0, 0.15, 4_000)
    worse = np.clip(truth + noise, 0.01, 0.99)
    against = baselines.against(label, np.arange(4_000), truth, {"worse": worse, "same": truth}, train_rate=0.5, seed=0)
    ours = {"brier": float(np.mean((truth - label) ** 2)), "auc": float(against[1].metrics["auc"])}
    assert against[0].gains["brier"].value == pytest.approx(against[0].metrics["brier"] - ours["brier"])
    assert against[0].gains["auc"].value == pytest.approx(ours["auc"] - against[0].metrics["auc"])
    assert [each.is_beaten for each in against] == [True, False]
    assert all(gain.is_certain for gain in against[0].gains.values())
    assert [(g.value, g.interval) for g in against[1].gains.values()] == [(0.0, (0.0, 0.0))] * 3
