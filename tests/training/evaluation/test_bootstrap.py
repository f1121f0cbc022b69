"""Bootstrap intervals: they cover the truth as often as they claim, and exits of one user count as one draw."""

import numpy as np
import pyarrow as pa
import pytest

from training.evaluation.bootstrap import clusters, draws, interval, reflected, resampled


@pytest.mark.parametrize(
    "users",
    [
        np.array(["b", "a", "b", "c"]),
        pa.chunked_array([["b", "a"], ["b", "c"]]),
        np.array([20, 10, 20, 30]),
        np.array([1, 0, 1, 2]),
    ],
)
def test_users_are_numbered_in_the_order_of_their_ids(users: object) -> None:
    assert clusters(users).tolist() == [1, 0, 1, 2]


def test_a_draw_takes_as_many_users_as_there_are_and_the_same_seed_the_same_ones() -> None:
    first, second = list(draws(7, 5, 20)), list(draws(7, 5, 20))
    assert [drawn.sum() for drawn in first] == [7] * 20
    assert np.array_equal(first, second)
    assert not np.array_equal(first, list(draws(7, 6, 20)))


def test_a_user_is_drawn_with_all_of_their_exits() -> None:
    means = resampled(np.array([[1.0, 10.0], [1.0, 10.0], [0.0, 0.0]]), np.array(["a", "a", "b"]), 0, 200)
    # Two users: one drawn twice, the other drawn twice, or each once, with 2 of 3 rows at 1.
    assert {tuple(np.round(row, 6)) for row in means} == {(0.0, 0.0), (round(2 / 3, 6), round(20 / 3, 6)), (1.0, 10.0)}


def test_the_order_of_the_rows_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    values, users = rng.random((50, 2)), np.array([f"user-{i % 9}" for i in range(50)])
    order = rng.permutation(50)
    assert np.allclose(resampled(values, users, 3, 40), resampled(values[order], users[order], 3, 40))


def test_the_interval_is_the_middle_of_the_resamples() -> None:
    assert interval(np.arange(101.0), 0.90) == pytest.approx((5.0, 95.0))
    assert interval(np.array([np.nan, 2.0, 2.0])) == (2.0, 2.0)
    assert np.isnan(interval(np.array([np.nan, np.nan]))).all()
    assert reflected(40.0, np.arange(101.0), 0.90) == pytest.approx((-15.0, 75.0))


def test_exits_that_all_end_alike_for_a_user_widen_the_interval_twofold_at_four_exits_a_user() -> None:
    outcome = np.random.default_rng(1).integers(0, 2, 500).astype(np.float64)
    rows, users = np.repeat(outcome, 4)[:, None], np.repeat(np.arange(500), 4)
    low, high = interval(resampled(rows, users, 0)[:, 0])
    alone_low, alone_high = interval(resampled(rows, np.arange(2_000), 0)[:, 0])
    assert (high - low) / (alone_high - alone_low) == pytest.approx(2, rel=0.15)


def test_an_interval_of_95_percent_holds_the_truth_in_about_19_of_20_worlds() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for world in range(200):
        users = np.repeat(np.arange(150), 3)
        values = (rng.normal(0, 1, 150)[users] + rng.normal(0, 1, 450))[:, None]
        low, high = interval(resampled(values, users, world, 300)[:, 0])
        held += low <= 0 <= high
    assert 180 <= held <= 198
