"""Voucher policy: literal cases of who gets a voucher, and the reason otherwise."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from scoring.policy import (
    RISK_BANDS,
    decide,
)
from tests.support.builders.policy import (
    DAYS,
    EXPERIMENT,
    HELD_OUT,
    NOW,
    TICK,
    Person,
    candidates,
    granted,
    policy,
    reasons,
)


@pytest.mark.parametrize(
    ("person", "reason"),
    [
        (Person(), "granted"),
        (Person(consent=False), "no_consent"),
        (Person(profile=False, consent=False), "no_profile"),
        (Person(profile=False), "no_profile"),
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
        # If several rules apply, the first gives the reason.
        (Person(HELD_OUT, 0.2, consent=False, granted=DAYS, redeemed=DAYS), "no_consent"),
        (Person(HELD_OUT, 0.2, consent=False, profile=False, granted=DAYS, redeemed=DAYS), "no_profile"),
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
        ("highest_probability", {4, 3, 1}),  # .9, .8, then two with .7: the lower number wins
        ("nearest_to_middle", {1, 5, 6}),  # the middle is .675: both .7 and .65 come before .8 and .5
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
