"""Builders for tests of the policy: people, rules, and the resulting decisions."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from scoring.policy import (
    ELIGIBILITY_REASONS,
    Candidates,
    Experiment,
    Policy,
    RiskBands,
    Voucher,
    decide,
)

NOW = datetime(2026, 6, 15, 10, 0, tzinfo=UTC)
SALT = "tax-season-2026"
# Under SALT the draw of 1 is .887 and that of 2 is .035. With a tenth in the holdout, 1 is treated and 2 is not.
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

DAYS = timedelta(days=1)
TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Person:
    """One candidate. Times are how long ago something happened, None for never."""

    number: int = TREATED
    probability: float = 0.7
    consent: bool = True
    profile: bool = True
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
        has_profile=np.array([p.profile for p in people], np.bool_),
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
