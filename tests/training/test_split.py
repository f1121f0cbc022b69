"""Split of the examples: the test set holds later exits of other users, at least one gap after the training rows."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.fitting.split import MIN_TRAIN_RATIO, share, split_by_time_and_user

DAY_US = 86_400_000_000
HISTORIES = st.lists(
    st.tuples(st.integers(0, 100 * DAY_US), st.floats(0, 1, exclude_max=True)), min_size=1, max_size=60
).map(sorted)


def arrays(history: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([at for at, _ in history], dtype=np.int64), np.array([user for _, user in history])


@given(history=HISTORIES, gap_us=st.integers(0, 30 * DAY_US), ratio=st.floats(0.1, 0.9))
def test_every_row_is_in_one_part_no_user_on_both_sides_and_no_training_row_nearer_to_the_test_than_the_gap(
    history: list[tuple[int, float]], gap_us: int, ratio: float
) -> None:
    exited_us, users = arrays(history)
    split = split_by_time_and_user(exited_us, users, gap_us, ratio)
    assert sorted(np.concatenate(list(split.parts.values())).tolist()) == list(range(len(history)))
    assert (exited_us[split.test] >= split.test_from_us).all()
    assert (exited_us[split.learned] + split.gap_us <= split.test_from_us).all()
    assert (users[split.test] < ratio).all()
    assert (users[split.learned] >= ratio).all()
    if len(split.fit):
        assert exited_us[split.fit].max() < exited_us[split.validation].min()


@given(history=HISTORIES, gap_us=st.integers(1, 90 * DAY_US))
def test_the_gap_is_shortened_only_where_it_would_leave_too_little_to_learn_from(
    history: list[tuple[int, float]], gap_us: int
) -> None:
    exited_us, users = arrays(history)
    split = split_by_time_and_user(exited_us, users, gap_us, 0.2)
    assert split.gap_us <= gap_us
    if split.gap_us < gap_us:
        assert (exited_us <= split.test_from_us - gap_us).sum() < MIN_TRAIN_RATIO * len(history)
    if split.gap_us > 1:
        assert (exited_us <= split.test_from_us - split.gap_us).sum() >= MIN_TRAIN_RATIO * len(history)


def test_the_test_period_is_the_last_fifth_of_the_time() -> None:
    exited_us = np.arange(0, 101, dtype=np.int64) * DAY_US
    split = split_by_time_and_user(exited_us, np.tile([0.0, 0.5], 51)[:101], 14 * DAY_US, 0.2)
    assert split.test.tolist() == list(range(80, 101, 2))
    assert split.fit.tolist() == list(range(1, 57, 2))
    assert split.validation.tolist() == list(range(57, 67, 2))


def test_a_user_has_one_share_in_any_order_and_another_salt_gives_another() -> None:
    users = pa.chunked_array([["u1", "u2"], ["u1"]])
    assert share(users, 0).tolist() == pytest.approx([0.43597, 0.03446, 0.43597], abs=1e-5)
    assert share(users.take([1, 0]), 0).tolist() == share(users, 0)[[1, 0]].tolist()
    assert share(users, 1)[0] != share(users, 0)[0]


def test_as_many_users_judge_as_were_asked_for() -> None:
    shares = share(pa.chunked_array([[f"user-{i}" for i in range(20_000)]]), 7)
    assert (shares < 0.2).mean() == pytest.approx(0.2, abs=0.01)
