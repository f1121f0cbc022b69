"""Promotion of a challenger: it needs a gain beyond chance, a stable ranking and calibrated probabilities."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation import metrics as evaluate
from training.promotion.comparison import ALL_EXITS, ChallengeRules, chance_error, judge
from training.promotion.verdict import Check, Verdict

Floats = npt.NDArray[np.float64]

RULES = ChallengeRules(resamples=400, min_examples=100, min_slice_rows=200)


class Trial:
    """Exits with a known truth: `truth` is the probability of each, `label` its outcome."""

    def __init__(self, seed: int, count_users: int = 1_000, exits_each: int = 2) -> None:
        self.rng = np.random.default_rng(seed)
        of = np.repeat(np.arange(count_users), exits_each)
        self.users = np.array([f"u{number:05}" for number in of])
        self.truth: Floats = self.rng.beta(2, 2, count_users)[of]
        self.label = (self.rng.random(count_users)[of] < self.truth).astype(
            np.int64
        )  # all exits of a user end the same way

    def blurred(self, deviation: float) -> Floats:
        """Predictions of a model whose error in log odds has this deviation."""
        odds = np.log(self.truth / (1 - self.truth)) + self.rng.normal(0, deviation, len(self.truth))
        return 1 / (1 + np.exp(-odds))

    def judge(self, champion: Floats, challenger: Floats, **changes: Any) -> Verdict:
        arguments: dict[str, Any] = {"slices": {}, "rules": RULES, **changes}
        return judge(self.label, self.users, champion, challenger, **arguments)


def check(verdict: Verdict, name: str) -> Check:
    return next(each for each in verdict.checks if each.name == name)


def failed(verdict: Verdict) -> list[str]:
    return [each.name for each in verdict.checks if not each.is_passed]


# Measures


def test_both_models_are_measured_as_in_the_textbook() -> None:
    label = np.tile([0, 0, 1, 1], 50)
    users = np.arange(200)
    verdict = judge(label, users, np.tile([0.4, 0.4, 0.6, 0.6], 50), np.tile([0.1, 0.2, 0.8, 0.9], 50), {}, rules=RULES)
    assert verdict.champion_scores
    assert verdict.champion_scores.model_dump() == pytest.approx(
        {"auc": 1.0, "brier": 0.16, "log_loss": -np.log(0.6), "calibration_error": 0.4}
    )
    assert verdict.challenger_scores
    assert verdict.challenger_scores.model_dump() == pytest.approx(
        {"auc": 1.0, "brier": 0.025, "log_loss": -np.log(0.72) / 2, "calibration_error": 0.15}
    )
    assert verdict.gain == pytest.approx(0.135)
    assert (verdict.count_examples, verdict.count_users) == (200, 200)
    assert failed(verdict) == [f"calibration, {ALL_EXITS}"]


def test_the_interval_is_that_of_the_mean_difference_where_the_textbook_has_one() -> None:
    trial = Trial(1, count_users=2_000, exits_each=1)
    champion, challenger = trial.blurred(0.7), trial.blurred(0.3)
    verdict = trial.judge(champion, challenger, rules=RULES.model_copy(update={"resamples": 4_000}))
    difference = (champion - trial.label) ** 2 - (challenger - trial.label) ** 2
    half = 1.96 * difference.std() / np.sqrt(len(difference))
    assert verdict.gain == pytest.approx(difference.mean())
    assert verdict.gain_low == pytest.approx(difference.mean() - half, abs=half / 10)
    assert verdict.gain_high == pytest.approx(difference.mean() + half, abs=half / 10)


def test_five_copies_of_every_exit_are_no_more_evidence_than_one() -> None:
    once = Trial(2, exits_each=1)
    champion, challenger = once.blurred(0.5), once.blurred(0.3)
    one = once.judge(champion, challenger)
    label, users, *rivals = (np.tile(each, 5) for each in (once.label, once.users, champion, challenger))
    five = judge(label, users, rivals[0], rivals[1], {}, rules=RULES)
    assert (five.gain, five.gain_low, five.gain_high) == pytest.approx((one.gain, one.gain_low, one.gain_high))


@pytest.mark.parametrize(("metric", "gain"), [("brier", 0.03), ("log_loss", 0.1178)])
def test_the_metric_is_the_one_that_the_rules_name(metric: str, gain: float) -> None:
    label = np.array([1, 0] * 100)
    champion, challenger = np.where(label, 0.8, 0.2), np.where(label, 0.9, 0.1)
    rules = ChallengeRules.model_validate({"metric": metric, "min_examples": 100, "max_calibration_error": 0.2})
    verdict = judge(label, np.arange(200), champion, challenger, {}, rules=rules)
    assert verdict.gain == pytest.approx(gain, abs=1e-4)
    assert verdict.is_better


# Decisions


def test_a_better_model_is_better() -> None:
    trial = Trial(3)
    verdict = trial.judge(trial.blurred(1.0), trial.truth)
    assert verdict.is_better
    assert verdict.gain_low is not None
    assert verdict.gain_low > 0
    assert failed(verdict) == []
    assert verdict.says.startswith("Better. The challenger's Brier score is lower by 0.0")


def test_a_worse_model_is_told_to_be_worse() -> None:
    trial = Trial(3)
    verdict = trial.judge(trial.truth, trial.blurred(1.0))
    assert not verdict.is_better
    assert "lies below zero: the challenger is worse" in verdict.says


@pytest.mark.parametrize("metric", ["brier", "log_loss"])
def test_certainty_that_was_wrong_costs_a_finite_loss(metric: str) -> None:
    trial = Trial(4)
    wrong: Floats = 1.0 - trial.label.astype(np.float64)
    verdict = trial.judge(wrong, trial.truth, rules=RULES.model_copy(update={"metric": metric}))
    assert verdict.gain is not None
    assert np.isfinite(verdict.gain)
    assert verdict.is_better


def test_a_gain_in_calibration_alone_may_not_cost_the_ranking() -> None:
    trial = Trial(5, count_users=4_000, exits_each=1)
    champion = trial.truth**3  # perfect ranking, but probabilities far too low
    challenger = trial.blurred(1.0)
    verdict = trial.judge(champion, challenger)
    assert check(verdict, "gain").is_passed
    assert "auc" in failed(verdict)
    lenient = trial.judge(champion, challenger, rules=RULES.model_copy(update={"max_auc_loss": 0.5}))
    assert "auc" not in failed(lenient)


def test_a_large_slice_that_is_off_refuses_a_model_that_is_better_on_the_whole() -> None:
    trial = Trial(6, count_users=4_000)
    tablets = trial.rng.random(len(trial.label)) < 0.15
    challenger = np.where(tablets, np.clip(trial.truth + 0.25, 0, 1), trial.truth)
    devices = np.where(tablets, "tablet", "mobile").tolist()
    verdict = trial.judge(trial.blurred(1.5), challenger, slices={"device": devices})
    assert check(verdict, "gain").is_passed
    assert failed(verdict) == ["calibration, device: tablet"]


def test_a_slice_where_the_champion_is_worse_refuses_nobody_within_the_bound() -> None:
    trial = Trial(7)
    verdict = trial.judge(
        np.clip(trial.truth + 0.3, 0, 1), trial.truth, slices={"device": ["mobile"] * len(trial.label)}
    )
    assert verdict.is_better
    assert [each.name for each in verdict.checks if each.name.startswith("calibration")] == [
        f"calibration, {ALL_EXITS}",
        "calibration, device: mobile",
    ]


def test_small_slices_are_not_asked_and_what_has_no_name_is_unknown() -> None:
    trial = Trial(8, count_users=500, exits_each=1)
    names: list[str | None] = [*["a"] * 199, *[None] * 301]
    verdict = trial.judge(trial.truth, trial.truth, slices={"origin": names})
    assert [each.name for each in verdict.checks if "origin" in each.name] == ["calibration, origin: unknown"]


@pytest.mark.parametrize(
    ("count", "label", "name", "says"),
    [
        (0, 1, "examples", "0 exits can judge, 100 are needed."),
        (99, 1, "examples", "99 exits can judge, 100 are needed."),
        (100, 1, "outcomes", "1 outcomes occur among them, 2 are needed."),
    ],
)
def test_too_little_to_judge_by_is_said_and_is_never_better(count: int, label: int, name: str, says: str) -> None:
    given_label = np.full(count, label)
    users = np.array([f"u{i}" for i in range(count)], dtype=np.str_)
    probability = np.full(count, 0.5)
    verdict = judge(given_label, users, probability, probability, {}, rules=RULES)
    assert not verdict.is_better
    assert check(verdict, name).says == says
    assert (verdict.gain, verdict.champion_scores) == (None, None)


def test_exits_of_a_handful_of_users_are_too_little_however_many_they_are() -> None:
    trial = Trial(9, count_users=49, exits_each=100)
    verdict = trial.judge(trial.blurred(2.0), trial.truth)
    assert failed(verdict) == ["users"]


# Laws


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), before=st.floats(0, 2), after=st.floats(0, 2))
def test_swapping_the_rivals_negates_the_gain(seed: int, before: float, after: float) -> None:
    trial = Trial(seed, count_users=150)
    champion, challenger = trial.blurred(before), trial.blurred(after)
    one, other = trial.judge(champion, challenger), trial.judge(challenger, champion)
    assert one.gain is not None
    assert other.gain is not None
    assert other.gain == pytest.approx(-one.gain)
    assert (other.gain_low, other.gain_high) == pytest.approx((-(one.gain_high or 0), -(one.gain_low or 0)))
    for mine, theirs in (
        (one.champion_scores, other.challenger_scores),
        (one.challenger_scores, other.champion_scores),
    ):
        assert mine
        assert theirs
        assert mine.model_dump() == pytest.approx(theirs.model_dump())
    assert not (one.is_better and other.is_better)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), deviation=st.floats(0, 2))
def test_a_model_is_not_better_than_itself(seed: int, deviation: float) -> None:
    trial = Trial(seed, count_users=150)
    same = trial.blurred(deviation)
    verdict = trial.judge(same, same)
    assert (verdict.gain, verdict.gain_low, verdict.gain_high) == (0, 0, 0)
    assert "gain" in failed(verdict)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), decimals=st.integers(1, 6))
def test_the_order_of_the_rows_changes_nothing(seed: int, decimals: int) -> None:
    trial = Trial(seed, count_users=150)
    champion, challenger = trial.blurred(1.0).round(decimals), trial.blurred(0.5).round(decimals)  # with ties
    devices = trial.rng.choice(["mobile", "tablet"], len(trial.label))
    order = trial.rng.permutation(len(trial.label))
    rules = RULES.model_copy(update={"min_slice_rows": 100})
    straight = trial.judge(champion, challenger, slices={"device": devices.tolist()}, rules=rules)
    shuffled = judge(
        trial.label[order],
        trial.users[order],
        champion[order],
        challenger[order],
        {"device": devices[order].tolist()},
        rules=rules,
    )
    assert shuffled == straight


def test_of_two_models_that_err_alike_one_is_promoted_only_by_luck() -> None:
    count = sum(
        (trial := Trial(seed)).judge(trial.blurred(0.5), trial.blurred(0.5)).is_better for seed in range(100, 300)
    )
    assert count <= 11  # one in 40 of 200 is 5; more than 11 has a chance of one in 200


@pytest.mark.parametrize(
    ("count_users", "exits_each"), [(500, 1), (125, 4), (5_000, 1)], ids=["least", "of regulars", "large"]
)
@pytest.mark.parametrize("shape", [(2, 2), (1, 9)], ids=["even", "rare"])
def test_a_perfectly_calibrated_slice_is_nearly_never_refused_for_its_noise(
    count_users: int, exits_each: int, shape: tuple[float, float]
) -> None:
    rng = np.random.default_rng(11)
    beyond = 0
    for _ in range(400):
        of = np.repeat(np.arange(count_users), exits_each)
        truth = rng.beta(*shape, count_users)[of]
        label = (rng.random(count_users)[of] < truth).astype(np.int64)
        beyond += evaluate.calibration_error(label, truth) > chance_error(truth, of)
    assert beyond <= 2


@pytest.mark.parametrize(
    ("count", "allowed"),
    # Ten bins of count/10 rows at p = 0.5: 0.5 / sqrt(count / 10) * (0.7979 + 3.5 * 0.6028 / sqrt(10))
    [(500, 0.1036), (5_000, 0.0328)],
)
def test_the_allowance_for_noise_shrinks_with_the_root_of_the_rows(count: int, allowed: float) -> None:
    assert chance_error(np.full(count, 0.5), np.arange(count)) == pytest.approx(allowed, abs=1e-4)


# Storage


def test_a_verdict_survives_being_written_and_read() -> None:
    trial = Trial(12)
    verdict = trial.judge(trial.blurred(1.0), trial.truth, slices={"device": ["mobile"] * len(trial.label)})
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict
    assert json.loads(json.dumps(verdict.as_dict()))["is_better"] is True


def test_no_verdict_names_a_user() -> None:
    trial = Trial(12)
    text = trial.judge(trial.blurred(1.0), trial.truth).model_dump_json()
    assert not any(user in text for user in trial.users)


def test_the_same_seed_gives_the_same_verdict_and_another_one_another_interval() -> None:
    trial = Trial(13)
    champion, challenger = trial.blurred(1.0), trial.blurred(0.5)
    assert trial.judge(champion, challenger, seed=1) == trial.judge(champion, challenger, seed=1)
    assert trial.judge(champion, challenger, seed=1).gain_low != trial.judge(champion, challenger, seed=2).gain_low


@pytest.mark.parametrize(
    "change",
    [{"confidence": 1}, {"confidence": 0.1}, {"resamples": 10}, {"metric": "auc"}, {"max_auc_lost": 0.1}],
    ids=str,
)
def test_rules_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        ChallengeRules.model_validate(change)
