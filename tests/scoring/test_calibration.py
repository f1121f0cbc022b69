"""Calibration: a map is used only if it helps other users, and it never reverses the ranking."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scoring.calibration import Calibration
from training.fitting.calibrate import MIN_ROWS, calibrate, isotonic, platt

COUNT = 12_000


def answers(spread: float, *, count: int = COUNT, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities whose log odds are `spread` times the true ones, and each row's user: two rows per user."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(0, 1.5, count)
    label = (rng.random(count) < 1 / (1 + np.exp(-log_odds))).astype(np.int64)
    return label, 1 / (1 + np.exp(-spread * log_odds)), np.arange(count) // 2


def halves(users: np.ndarray) -> np.ndarray:
    return np.asarray(users % 2 == 0)


def test_true_probabilities_are_left_alone() -> None:
    for seed in range(5):
        label, probability, users = answers(1.0, seed=seed)
        assert calibrate(label, probability, users, halves(users), 0) == Calibration()


@pytest.mark.parametrize("spread", [0.4, 2.5])
def test_timid_and_bold_probabilities_are_mended(spread: float) -> None:
    label, probability, users = answers(spread)
    mended = calibrate(label, probability, users, halves(users), 0)
    assert mended.kind == "platt"
    assert mended.slope == pytest.approx(1 / spread, rel=0.1)
    later, raw, _ = answers(spread, seed=1)
    assert np.mean((mended.apply(raw) - later) ** 2) < np.mean((raw - later) ** 2)


def test_a_step_that_no_line_can_mend_is_mended_by_steps() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(COUNT)
    label = (rng.random(COUNT) < np.where(probability > 0.9, 0.5, 0.1)).astype(np.int64)
    users = np.arange(COUNT)
    assert calibrate(label, probability, users, halves(users), 0).kind == "isotonic"


def test_too_few_rows_or_labels_are_left_alone() -> None:
    label, probability, users = answers(3.0, count=2 * MIN_ROWS - 2)
    assert calibrate(label, probability, users, halves(users), 0) == Calibration()
    label, probability, users = answers(3.0)
    assert calibrate(np.zeros_like(label), probability, users, halves(users), 0) == Calibration()


@given(probability=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=20))
def test_no_map_turns_a_ranking_round_or_leaves_0_to_1(probability: list[float]) -> None:
    label, raw, _ = answers(2.0, count=400)
    ordered = np.sort(np.array(probability, dtype=np.float32))
    for mended in (Calibration(), platt(label, raw), isotonic(label, raw)):
        answered = mended.apply(ordered)
        assert answered.dtype == np.float32
        assert (np.diff(answered) >= 0).all()
        assert ((answered >= 0) & (answered <= 1)).all()


@pytest.mark.parametrize(
    "told",
    [
        {"kind": "platt", "slope": -1.0},
        {"kind": "isotonic", "raw": (0.1, 0.2), "true": (0.2, 0.1)},
        {"kind": "isotonic", "raw": (0.1,), "true": (0.1,)},
        {"kind": "isotonic", "raw": (0.1, 0.2), "true": (0.2,)},
        {"kind": "beta"},
    ],
)
def test_a_map_that_is_none_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Calibration.model_validate(told)
