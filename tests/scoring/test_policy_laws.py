"""Voucher policy, for any candidates: budgets, holdout and consent are respected."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scoring.policy import (
    ARMS,
    ELIGIBILITY_REASONS,
    Experiment,
    Policy,
    decide,
    draw_arms,
)
from tests.support.builders.policy import DAYS, NOW, SALT, TICK, Person, candidates, granted, policy, reasons

# Few distinct values, so that ties and boundary values are frequent.
PROBABILITIES = st.sampled_from([0.0, 0.35, 0.4499, 0.45, 0.5, 0.65, 0.675, 0.7, 0.9, 0.9001, 1.0])
AGES = st.sampled_from([None, timedelta(0), TICK, DAYS, 60 * DAYS - TICK, 60 * DAYS, 400 * DAYS])
PEOPLE = st.lists(
    st.builds(
        Person,
        number=st.integers(0, 2**60 - 1) | st.integers(0, 50),
        probability=PROBABILITIES | st.floats(0, 1),
        consent=st.sampled_from([True, True, True, False]),
        profile=st.sampled_from([True, True, True, False]),
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


@given(PEOPLE, POLICIES, GRANTED_TODAY)
def test_grants_never_exceed_either_budget(people: list[Person], rules: Policy, granted_today: int) -> None:
    count = len(granted(people, rules, granted_today))
    assert count <= rules.voucher.budget_per_run
    assert count <= max(rules.voucher.budget_per_day - granted_today, 0)


@given(PEOPLE, POLICIES, GRANTED_TODAY)
def test_nobody_is_refused_for_a_budget_that_is_not_used_up(
    people: list[Person], rules: Policy, granted_today: int
) -> None:
    found = reasons(people, rules, granted_today)
    left = min(rules.voucher.budget_per_run, max(rules.voucher.budget_per_day - granted_today, 0))
    if {"budget_run", "budget_day"} & set(found):
        assert found.count("granted") == left


@given(PEOPLE, POLICIES, GRANTED_TODAY)
def test_neither_the_holdout_nor_anybody_without_consent_gets_a_grant(
    people: list[Person], rules: Policy, granted_today: int
) -> None:
    lucky = granted(people, rules, granted_today)
    drawn = draw_arms(np.array([p.number for p in people], np.int64), rules.experiment)
    assert not lucky & {p.number for p, arm in zip(people, drawn, strict=True) if ARMS[arm] == "holdout"}
    assert not lucky & {p.number for p in people if not p.consent or not p.profile}


@given(PEOPLE, POLICIES, GRANTED_TODAY)
def test_every_row_has_exactly_one_reason_and_only_granted_is_eligible(
    people: list[Person], rules: Policy, granted_today: int
) -> None:
    decided = decide(candidates(people), rules, decided_at=NOW, granted_today=granted_today)
    assert decided.reason.shape == decided.arm.shape == (len(people),)
    assert set(decided.reason.tolist()) <= set(range(len(ELIGIBILITY_REASONS)))
    assert decided.is_eligible.tolist() == [ELIGIBILITY_REASONS[i] == "granted" for i in decided.reason]


@given(PEOPLE, POLICIES, GRANTED_TODAY, st.randoms(use_true_random=False))
def test_permuting_the_rows_permutes_the_answer(
    people: list[Person], rules: Policy, granted_today: int, random: Any
) -> None:
    shuffled = random.sample(people, len(people))
    before = dict(zip((p.number for p in people), reasons(people, rules, granted_today), strict=True))
    after = dict(zip((p.number for p in shuffled), reasons(shuffled, rules, granted_today), strict=True))
    assert after == before


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


@given(PEOPLE.filter(bool), POLICIES, GRANTED_TODAY)
def test_taking_consent_away_changes_nobody_else_to_the_worse(
    people: list[Person], rules: Policy, granted_today: int
) -> None:
    without = [replace(people[0], consent=False), *people[1:]]
    assert granted(people, rules, granted_today) - {people[0].number} <= granted(without, rules, granted_today)
