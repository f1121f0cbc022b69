"""Holdout: the assignment is stable, and its share is the configured one."""

import numpy as np
import pytest

from scoring.policy import (
    ARMS,
    Experiment,
    draw_arms,
)
from tests.support.builders.policy import SALT


def arms(numbers: list[int], ratio: float, salt: str = SALT) -> list[str]:
    drawn = draw_arms(np.array(numbers, np.int64), Experiment(holdout_ratio=ratio, salt=salt))
    return [ARMS[i] for i in drawn]


def test_the_arms_of_a_salt_are_these_for_ever() -> None:
    # Computed once. If this fails, arms changed in the middle of an experiment, which makes its lift worthless.
    numbers = [1, 2, 42, 123_456_789_012_345_678, 1_152_921_504_606_846_975]
    assert arms(numbers, 0.5) == ["treatment", "holdout", "holdout", "holdout", "treatment"]
    assert arms(numbers, 0.1) == ["treatment", "holdout", "treatment", "treatment", "treatment"]


def test_the_share_held_out_is_near_the_ratio_asked_for() -> None:
    drawn = draw_arms(np.arange(100_000, dtype=np.int64), Experiment(holdout_ratio=0.1, salt=SALT))
    assert drawn.mean() == pytest.approx(0.1, abs=0.005)  # five standard deviations


def test_a_larger_holdout_keeps_everybody_of_the_smaller() -> None:
    numbers = np.arange(10_000, dtype=np.int64)
    tenth, fifth = (draw_arms(numbers, Experiment(holdout_ratio=ratio, salt=SALT)) for ratio in (0.1, 0.2))
    assert (fifth[tenth == 1] == 1).all()


def test_a_new_salt_draws_anew_and_independently() -> None:
    numbers = np.arange(100_000, dtype=np.int64)
    one, other = (draw_arms(numbers, Experiment(holdout_ratio=0.5, salt=salt)) for salt in ("spring", "autumn"))
    assert (one == other).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("ratio", "everybody"), [(0.0, "treatment"), (1.0, "holdout")])
def test_a_ratio_of_none_or_all_leaves_one_arm(ratio: float, everybody: str) -> None:
    assert arms(list(range(10_000)), ratio) == [everybody] * 10_000
