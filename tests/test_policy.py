"""Who gets a voucher, who does not, and why? Literal cases, then laws over any candidates."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring.policy import (
    ARMS,
    ELIGIBILITY_REASONS,
    RISK_BANDS,
    Candidates,
    Experiment,
    Policy,
    RiskBands,
    Voucher,
    decide,
    draw_arms,
    load_policy,
)
from warehouse.errors import ContractError

NOW = datetime(2026, 6, 15, 10, 0, tzinfo=UTC)
SALT = "tax-season-2026"
# Under SALT the draw of 1 is .887 and of 2 is .035: with a tenth held out, 1 is treated and 2 is not.
TREATED, HELD_OUT = 1, 2

BANDS = RiskBands(high=0.65, medium=0.35)
VOUCHER = Voucher(
    probability_range=(0.45, 0.9),
    valid_days=7,
    cool_down_days=60,
    budget_per_run=200,
    budget_per_day=1000,
    ranking="highest_probability",
)
EXPERIMENT = Experiment(holdout_ratio=0.1, salt=SALT)
NO_HOLDOUT = Experiment(holdout_ratio=0, salt=SALT)


@dataclass(frozen=True)
class Person:
    """One candidate; times are how long ago, None for never."""

    number: int = TREATED
    probability: float = 0.7
    consent: bool = True
    granted: timedelta | None = None
    redeemed: timedelta | None = None


def policy(experiment: Experiment = NO_HOLDOUT, **voucher: Any) -> Policy:
    return Policy(risk_bands=BANDS, voucher=VOUCHER.model_copy(update=voucher), experiment=experiment)


def microseconds(ago: timedelta | None) -> int:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return 0 if ago is None else (NOW - ago - epoch) // timedelta(microseconds=1)


def candidates(people: list[Person]) -> Candidates:
    return Candidates(
        probability=np.array([p.probability for p in people], np.float64),
        user_number=np.array([p.number for p in people], np.int64),
        has_marketing_consent=np.array([p.consent for p in people], np.bool_),
        last_granted_us=np.array([microseconds(p.granted) for p in people], np.int64),
        last_redeemed_us=np.array([microseconds(p.redeemed) for p in people], np.int64),
    )


def reasons(people: list[Person], rules: Policy, granted_today: int = 0) -> list[str]:
    decided = decide(candidates(people), rules, decided_at=NOW, granted_today=granted_today)
    return [ELIGIBILITY_REASONS[i] for i in decided.reason]


def granted(people: list[Person], rules: Policy, granted_today: int = 0) -> set[int]:
    found = reasons(people, rules, granted_today)
    return {p.number for p, reason in zip(people, found, strict=True) if reason == "granted"}


# One person: the reason, and which reason goes before which

DAYS = timedelta(days=1)
TICK = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("person", "reason"),
    [
        (Person(), "granted"),
        (Person(consent=False), "no_consent"),
        (Person(probability=0.4499), "probability_below_range"),
        (Person(probability=0.45), "granted"),
        (Person(probability=0.9), "granted"),
        (Person(probability=0.9001), "probability_above_range"),
        (Person(granted=60 * DAYS - TICK), "cool_down"),
        (Person(granted=60 * DAYS), "granted"),
        (Person(granted=timedelta(0)), "cool_down"),
        (Person(granted=-DAYS), "cool_down"),
        (Person(redeemed=60 * DAYS - TICK), "redeemed"),
        (Person(redeemed=60 * DAYS), "granted"),
        (Person(HELD_OUT), "holdout"),
        # Whoever fails several questions gets the first one's answer.
        (Person(HELD_OUT, 0.2, consent=False, granted=DAYS, redeemed=DAYS), "no_consent"),
        (Person(HELD_OUT, 0.2, granted=DAYS, redeemed=DAYS), "probability_below_range"),
        (Person(HELD_OUT, 0.95, granted=DAYS, redeemed=DAYS), "probability_above_range"),
        (Person(HELD_OUT, granted=DAYS, redeemed=DAYS), "cool_down"),
        (Person(HELD_OUT, redeemed=DAYS), "redeemed"),
    ],
)
def test_a_person_gets_the_first_reason_that_applies(person: Person, reason: str) -> None:
    assert reasons([person], policy(EXPERIMENT)) == [reason]


@pytest.mark.parametrize(
    ("person", "reason"),
    [
        (Person(HELD_OUT), "holdout"),
        (Person(consent=False), "no_consent"),
        (Person(granted=DAYS), "cool_down"),
        (Person(), "budget_run"),
    ],
)
def test_an_empty_budget_is_the_last_reason_of_all(person: Person, reason: str) -> None:
    assert reasons([person], policy(EXPERIMENT, budget_per_run=0)) == [reason]


def test_without_a_cool_down_neither_a_grant_nor_a_redemption_stands_in_the_way() -> None:
    assert reasons([Person(granted=TICK, redeemed=TICK)], policy(cool_down_days=0)) == ["granted"]


def test_a_voucher_is_valid_from_the_end_of_the_run_window() -> None:
    decided = decide(candidates([Person()]), policy(), decided_at=NOW, granted_today=0)
    assert decided.valid_until == datetime(2026, 6, 22, 10, 0, tzinfo=UTC)
    assert decided.is_eligible.tolist() == [True]


def test_a_run_without_candidates_decides_nothing() -> None:
    decided = decide(candidates([]), policy(), decided_at=NOW, granted_today=0)
    assert (decided.reason.tolist(), decided.arm.tolist()) == ([], [])


# Budget and ranking


@pytest.mark.parametrize(
    ("per_run", "per_day", "granted_today", "found"),
    [
        (2, 10, 0, ["granted", "granted", "budget_run", "budget_run"]),
        (10, 3, 0, ["granted", "granted", "granted", "budget_day"]),
        (10, 3, 1, ["granted", "granted", "budget_day", "budget_day"]),
        (2, 3, 1, ["granted", "granted", "budget_run", "budget_run"]),
        (2, 3, 2, ["granted", "budget_day", "budget_day", "budget_day"]),
        (10, 3, 3, ["budget_day"] * 4),
        (10, 3, 5, ["budget_day"] * 4),
        (4, 4, 0, ["granted"] * 4),
        (0, 10, 0, ["budget_run"] * 4),
        (10, 0, 0, ["budget_day"] * 4),
    ],
)
def test_the_shorter_budget_ends_the_grants_and_names_itself(
    per_run: int, per_day: int, granted_today: int, found: list[str]
) -> None:
    people = [Person(number, 0.8 - number / 100) for number in range(1, 5)]
    rules = policy(budget_per_run=per_run, budget_per_day=per_day)
    assert reasons(people, rules, granted_today) == found


def test_whoever_is_refused_takes_nothing_from_the_budget() -> None:
    people = [Person(1, 0.89, consent=False), Person(2, 0.88, granted=DAYS), Person(3, 0.5)]
    assert granted(people, policy(budget_per_run=1)) == {3}


@pytest.mark.parametrize(
    ("ranking", "first_three"),
    [
        ("highest_probability", {4, 3, 1}),  # .9, .8, then .7 twice: the lower number
        ("nearest_to_middle", {1, 5, 6}),  # the middle is .675: .7 twice and .65 before .8 and .5
    ],
)
def test_a_short_budget_goes_down_the_ranking_and_ties_go_to_the_lower_number(
    ranking: str, first_three: set[int]
) -> None:
    people = [
        Person(5, 0.7),
        Person(1, 0.7),
        Person(2, 0.5),
        Person(4, 0.9),
        Person(3, 0.8),
        Person(6, 0.65),
    ]
    assert granted(people, policy(budget_per_run=3, ranking=ranking)) == first_three


@pytest.mark.parametrize("ranking", ["highest_probability", "nearest_to_middle"])
def test_equal_wishes_are_met_in_the_order_of_numbers_whatever_the_order_of_rows(ranking: str) -> None:
    people = [Person(number, 0.6) for number in (7, 3, 9, 1, 5)]
    assert granted(people, policy(budget_per_run=2, ranking=ranking)) == {1, 3}


# Bands


@pytest.mark.parametrize(
    ("probability", "band"),
    [(0.0, "low"), (0.3499, "low"), (0.35, "medium"), (0.6499, "medium"), (0.65, "high"), (1.0, "high")],
)
def test_a_band_begins_at_its_edge(probability: float, band: str) -> None:
    (index,) = policy().bands(np.array([probability]))
    assert RISK_BANDS[index] == band


# Arms


def arms(numbers: list[int], ratio: float, salt: str = SALT) -> list[str]:
    drawn = draw_arms(np.array(numbers, np.int64), Experiment(holdout_ratio=ratio, salt=salt))
    return [ARMS[i] for i in drawn]


def test_the_arms_of_a_salt_are_these_for_ever() -> None:
    # Computed once. If this fails, arms were redrawn in the middle of an experiment, and its lift is worth nothing.
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


# Laws

law = settings(deadline=None)  # a loaded machine is no counterexample

# Few distinct values, so that ties and edges come up often.
PROBABILITIES = st.sampled_from([0.0, 0.35, 0.4499, 0.45, 0.5, 0.65, 0.675, 0.7, 0.9, 0.9001, 1.0])
AGES = st.sampled_from([None, timedelta(0), TICK, DAYS, 60 * DAYS - TICK, 60 * DAYS, 400 * DAYS])
PEOPLE = st.lists(
    st.builds(
        Person,
        number=st.integers(0, 2**60 - 1) | st.integers(0, 50),
        probability=PROBABILITIES | st.floats(0, 1),
        consent=st.sampled_from([True, True, True, False]),
        granted=AGES,
        redeemed=AGES,
    ),
    max_size=40,
    unique_by=lambda person: person.number,
)
POLICIES = st.builds(
    lambda ratio, **voucher: policy(Experiment(holdout_ratio=ratio, salt=SALT), **voucher),
    ratio=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    budget_per_run=st.integers(0, 20),
    budget_per_day=st.integers(0, 20),
    ranking=st.sampled_from(["highest_probability", "nearest_to_middle"]),
)
GRANTED_TODAY = st.integers(0, 25)


@law
@given(PEOPLE, POLICIES, GRANTED_TODAY)
def test_grants_never_exceed_either_budget(people: list[Person], rules: Policy, granted_today: int) -> None:
    count = len(granted(people, rules, granted_today))
    assert count <= rules.voucher.budget_per_run
    assert count <= max(rules.voucher.budget_per_day - granted_today, 0)


@law
@given(PEOPLE, POLICIES, GRANTED_TODAY)
def test_nobody_is_refused_for_a_budget_that_is_not_used_up(
    people: list[Person], rules: Policy, granted_today: int
) -> None:
    found = reasons(people, rules, granted_today)
    left = min(rules.voucher.budget_per_run, max(rules.voucher.budget_per_day - granted_today, 0))
    if {"budget_run", "budget_day"} & set(found):
        assert found.count("granted") == left


@law
@given(PEOPLE, POLICIES, GRANTED_TODAY)
def test_neither_the_holdout_nor_anybody_without_consent_gets_a_grant(
    people: list[Person], rules: Policy, granted_today: int
) -> None:
    lucky = granted(people, rules, granted_today)
    drawn = draw_arms(np.array([p.number for p in people], np.int64), rules.experiment)
    assert not lucky & {p.number for p, arm in zip(people, drawn, strict=True) if ARMS[arm] == "holdout"}
    assert not lucky & {p.number for p in people if not p.consent}


@law
@given(PEOPLE, POLICIES, GRANTED_TODAY)
def test_every_row_has_exactly_one_reason_and_only_granted_is_eligible(
    people: list[Person], rules: Policy, granted_today: int
) -> None:
    decided = decide(candidates(people), rules, decided_at=NOW, granted_today=granted_today)
    assert decided.reason.shape == decided.arm.shape == (len(people),)
    assert set(decided.reason.tolist()) <= set(range(len(ELIGIBILITY_REASONS)))
    assert decided.is_eligible.tolist() == [ELIGIBILITY_REASONS[i] == "granted" for i in decided.reason]


@law
@given(PEOPLE, POLICIES, GRANTED_TODAY, st.randoms(use_true_random=False))
def test_permuting_the_rows_permutes_the_answer(
    people: list[Person], rules: Policy, granted_today: int, random: Any
) -> None:
    shuffled = random.sample(people, len(people))
    before = dict(zip((p.number for p in people), reasons(people, rules, granted_today), strict=True))
    after = dict(zip((p.number for p in shuffled), reasons(shuffled, rules, granted_today), strict=True))
    assert after == before


@law
@given(PEOPLE, POLICIES, GRANTED_TODAY, st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 25)))
def test_a_lower_budget_grants_nobody_new(
    people: list[Person], rules: Policy, granted_today: int, less: tuple[int, int, int]
) -> None:
    less_a_run, less_a_day, more_today = less
    lower = {
        "budget_per_run": max(rules.voucher.budget_per_run - less_a_run, 0),
        "budget_per_day": max(rules.voucher.budget_per_day - less_a_day, 0),
    }
    tighter = rules.model_copy(update={"voucher": rules.voucher.model_copy(update=lower)})
    assert granted(people, tighter, granted_today + more_today) <= granted(people, rules, granted_today)


@law
@given(PEOPLE.filter(bool), POLICIES, GRANTED_TODAY)
def test_taking_consent_away_changes_nobody_else_to_the_worse(
    people: list[Person], rules: Policy, granted_today: int
) -> None:
    without = [replace(people[0], consent=False), *people[1:]]
    assert granted(people, rules, granted_today) - {people[0].number} <= granted(without, rules, granted_today)


# The file

FILE: dict[str, Any] = {
    "risk_bands": {"high": 0.65, "medium": 0.35},
    "voucher": {
        "probability_range": [0.45, 0.9],
        "valid_days": 7,
        "cool_down_days": 60,
        "budget_per_run": 200,
        "budget_per_day": 1000,
        "ranking": "highest_probability",
    },
    "experiment": {"holdout_ratio": 0.1, "salt": SALT},
}


def written(tmp_path: Path, section: str, **changes: Any) -> Path:
    path = tmp_path / "vouchers.yml"
    path.write_text(yaml.safe_dump(FILE | {section: {**FILE[section], **changes}}))
    return path


@pytest.mark.parametrize("folder", ["config", "examples/loan_applications"])
def test_the_files_that_ship_are_policies(folder: str) -> None:
    shipped = load_policy(Path(__file__).parents[1] / folder / "vouchers.yml")
    assert 0 < shipped.experiment.holdout_ratio < 1


def test_every_change_of_the_policy_changes_its_version_and_nothing_else_does(tmp_path: Path) -> None:
    same = load_policy(written(tmp_path, "voucher"))
    other = load_policy(written(tmp_path, "voucher", budget_per_run=201))
    assert same.version == policy(EXPERIMENT).version != other.version
    assert len(same.version) == 12


@pytest.mark.parametrize(
    ("section", "changes", "named"),
    [
        ("voucher", {"probability_range": [0.9, 0.45]}, "voucher.probability_range"),
        ("voucher", {"probability_range": [0.45, 1.1]}, "voucher.probability_range"),
        ("voucher", {"probability_range": [0.45]}, "voucher.probability_range"),
        ("voucher", {"probability_range": [float("nan"), 0.9]}, "voucher.probability_range"),
        ("voucher", {"valid_days": 0}, "voucher.valid_days"),
        ("voucher", {"cool_down_days": -1}, "voucher.cool_down_days"),
        ("voucher", {"budget_per_run": -1}, "voucher.budget_per_run"),
        ("voucher", {"budget_per_day": 1.5}, "voucher.budget_per_day"),
        ("voucher", {"ranking": "loudest"}, "voucher.ranking"),
        ("voucher", {"budgt_per_run": 5}, "voucher.budgt_per_run"),
        ("risk_bands", {"medium": 0.65}, "risk_bands"),
        ("risk_bands", {"medium": 0.7}, "medium must be below high"),
        ("experiment", {"holdout_ratio": 1.01}, "experiment.holdout_ratio"),
        ("experiment", {"salt": ""}, "experiment.salt"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_field(
    tmp_path: Path, section: str, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ContractError) as refusal:
        load_policy(written(tmp_path, section, **changes))
    assert "vouchers.yml" in str(refusal.value)
    assert named in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"risk_bands: [", b"salt: \xe4"])
def test_a_file_that_is_no_policy_at_all_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vouchers.yml"
    path.write_bytes(content)
    with pytest.raises(ContractError, match=r"vouchers\.yml is no voucher policy"):
        load_policy(path)


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"vouchers\.yml"):
        load_policy(tmp_path / "vouchers.yml")
