"""Metrics: they match the textbook, and each has an interval."""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from training.evaluation import metrics as evaluate
from training.evaluation.ranking import Ranking
from training.evaluation.slices import parts


@given(
    rows=st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=40).filter(
        lambda rows: {label for label, _, weight in rows if weight} == {False, True}
    )
)
def test_ranking_under_weights_is_that_of_scikit_learn(rows: list[tuple[bool, int, int]]) -> None:
    label, score, weight = (np.array(column) for column in zip(*rows, strict=True))
    probability, weights = score / 10, weight.astype(np.float64)
    found = Ranking(label.astype(np.int64), probability).measures(weights)
    assert found["auc"] == pytest.approx(roc_auc_score(label, probability, sample_weight=weights))
    assert found["average_precision"] == pytest.approx(
        average_precision_score(label, probability, sample_weight=weights)
    )


def test_gain_and_lift_take_the_riskiest_and_split_ties_evenly() -> None:
    label = np.array([1, 1, 0, 0, 0, 1, 0, 0, 0, 1])
    found = Ranking(label, np.linspace(0.9, 0.1, 10)).measures()
    assert (found["gain_at_10_percent"], found["gain_at_20_percent"]) == (0.25, 0.5)
    assert (found["lift_at_10_percent"], found["lift_at_20_percent"]) == (2.5, 2.5)
    assert Ranking(label, np.full(10, 0.4)).measures()["lift_at_10_percent"] == 1.0


def test_log_loss_is_that_of_scikit_learn() -> None:
    label, probability = np.array([0, 1, 1, 0]), np.array([0.2, 0.6, 0.9, 0.5])
    found = evaluate.measure(label, probability, train_rate=0.5)["log_loss"]
    assert found == pytest.approx(log_loss(label, probability))


def a_test_set(seed: int, shift: float = 0.0) -> tuple[evaluate.Labels, evaluate.Floats, evaluate.Labels]:
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 250, 750)
    log_odds = rng.normal(0, 1, 250)[users] + rng.normal(0, 1, 750)
    label = (rng.random(750) < 1 / (1 + np.exp(-log_odds))).astype(np.int64)
    return label, 1 / (1 + np.exp(-log_odds - shift)), users


def test_every_measure_has_an_interval_around_it() -> None:
    label, probability, users = a_test_set(0)
    metrics = evaluate.measure(label, probability, train_rate=0.4)
    found = evaluate.intervals(label, probability, users, train_rate=0.4, seed=0)
    assert set(found) == set(metrics)
    outside = [name for name, (low, high) in found.items() if not low <= metrics[name] <= high]
    assert outside == []


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """The truths come from 600,000 rows of the same world, because the grouping of rows into users changes no mean."""
    rng = np.random.default_rng(9)
    log_odds = rng.normal(0, np.sqrt(2), 600_000)
    label = (rng.random(600_000) < 1 / (1 + np.exp(-log_odds))).astype(np.int64)
    truth = evaluate.measure(label, 1 / (1 + np.exp(-log_odds - 1)), train_rate=0.5)
    held = dict.fromkeys(("auc", "brier", "log_loss", "calibration_error"), 0)
    for world in range(60):
        label, probability, users = a_test_set(world, shift=1)
        found = evaluate.intervals(label, probability, users, train_rate=0.5, seed=world, resamples=200)
        for name in held:
            held[name] += found[name][0] <= truth[name] <= found[name][1]
    assert all(51 <= count <= 60 for count in held.values()), held


def test_small_slices_are_not_shown_and_the_others_stand_in_the_order_of_their_names() -> None:
    label, probability = np.tile([0, 1], 80), np.tile([0.25, 0.75], 80)
    names = ["W48"] * 50 + ["W47"] * 60 + ["W49"] * 49 + ["W46"]
    shown = evaluate.slices(names, label, probability)
    assert [(s.name, s.count, s.predicted, s.observed, s.auc, s.calibration_error) for s in shown] == [
        ("W47", 60, 0.5, 0.5, 1.0, 0.25),
        ("W48", 50, 0.5, 0.5, 1.0, 0.25),
    ]
    assert [s.auc_interval for s in shown] == [(1.0, 1.0), (1.0, 1.0)]


def test_a_way_to_cut_that_cuts_nothing_is_left_out() -> None:
    label, probability = np.tile([0, 1], 60), np.tile([0.25, 0.75], 60)
    ways: dict[str, list[str | None]] = {
        "device": [None] * 120,
        "referral": [*["x"] * 60, *["y"] * 60],
        "week": [str(row) for row in range(120)],
    }
    found = evaluate.all_slices(ways, label, probability, np.arange(120), seed=0)
    assert {way: [s.name for s in slices] for way, slices in found.items()} == {"referral": ["x", "y"]}


def test_exits_are_cut_by_device_referral_visit_and_week() -> None:
    rows = pa.table(
        {
            "device_type": ["mobile", None],
            "referral_source": ["organic_search", "friend_referral"],
            "count_sessions": [1, 4],
            "exited_at": [datetime(2026, 12, 31, 23), datetime(2027, 1, 4)],
        }
    )
    assert parts(rows) == {
        "device of the last visit": ["mobile", None],
        "referral source": ["organic_search", "friend_referral"],
        "new or returning": ["first session", "came back"],
        "ISO week of exit": ["2026-W53", "2027-W01"],
    }
    assert list(parts(rows.select(["exited_at"]))) == ["ISO week of exit"]
