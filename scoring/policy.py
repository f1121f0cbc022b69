"""Voucher policy: decides which users get a voucher, and gives a reason for every other user.

A pure function of values: the same candidates, policy and day give the same decisions on any machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from core.config_file import read_yaml
from core.errors import ContractError

# Stable codes, in order of evaluation; the first that applies is the reason.
# `holdout` comes after every rule about the user, so that it marks exactly those who could otherwise get a voucher.
ELIGIBILITY_REASONS = (
    "granted",
    "no_profile",
    "no_consent",
    "probability_below_range",
    "probability_above_range",
    "cool_down",
    "redeemed",
    "holdout",
    "budget_run",
    "budget_day",
)
RISK_BANDS = ("low", "medium", "high")
ARMS = ("treatment", "holdout")

MAX_DAYS = 3_650  # ten years: more is probably a typing error, and could exceed the largest date
MAX_BUDGET = 1_000_000_000

Ratio = Annotated[float, Field(ge=0, le=1)]
Flags = npt.NDArray[np.bool_]


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("the first number must not be above the second")
    return pair


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RiskBands(_Section):
    """The probability from which a user is in the band."""

    high: Ratio
    medium: Ratio

    @model_validator(mode="after")
    def _in_order(self) -> RiskBands:
        if self.medium >= self.high:
            raise ValueError("medium must be below high")
        return self


class Voucher(_Section):
    """Range, budget and times of a voucher."""

    probability_range: Annotated[tuple[Ratio, Ratio], AfterValidator(_ascending)]
    valid_days: Annotated[int, Field(gt=0, le=MAX_DAYS)]
    cool_down_days: Annotated[int, Field(ge=0, le=MAX_DAYS)]
    budget_per_run: Annotated[int, Field(ge=0, le=MAX_BUDGET)]
    budget_per_day: Annotated[int, Field(ge=0, le=MAX_BUDGET)]
    ranking: Literal["highest_probability", "nearest_to_middle"]


class Experiment(_Section):
    """The share of users that never gets a voucher, and the salt of the random assignment."""

    holdout_ratio: Ratio
    salt: Annotated[str, Field(min_length=1, max_length=200)]


class Policy(_Section):
    """`config/vouchers.yml`."""

    risk_bands: RiskBands
    voucher: Voucher
    experiment: Experiment

    @property
    def version(self) -> str:
        """A short fingerprint, written on every decision."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def bands(self, probability: npt.NDArray[np.floating]) -> npt.NDArray[np.int8]:
        """Return each row's index into RISK_BANDS."""
        edges = [self.risk_bands.medium, self.risk_bands.high]
        return np.searchsorted(edges, probability, side="right").astype(np.int8)


def load_policy(path: Path) -> Policy:
    """Read the voucher policy.

    Raises: ContractError with the file and the mistake.
    """
    policy = read_yaml(path, Policy, "voucher policy")
    run, day = policy.voucher.budget_per_run, policy.voucher.budget_per_day
    if run > day:
        raise ContractError(
            f"{path.name} is not a valid voucher policy: voucher.budget_per_run ({run}) is above budget_per_day ({day}), so "
            "that a run could never grant as many. Correct one of them."
        )
    return policy


@dataclass(frozen=True)
class Candidates:
    """Inputs of the policy: one value per row, one row per user. Times are microseconds since 1970 UTC, 0 for never."""

    probability: npt.NDArray[np.floating]
    user_number: npt.NDArray[np.int64]
    has_profile: Flags
    has_marketing_consent: Flags
    last_granted_us: npt.NDArray[np.int64]
    last_redeemed_us: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Decisions:
    """Results of the policy, in the candidates' order. `reason` indexes ELIGIBILITY_REASONS, `arm` ARMS."""

    reason: npt.NDArray[np.int8]
    arm: npt.NDArray[np.int8]
    valid_until: datetime

    @property
    def is_eligible(self) -> Flags:
        """Whether the row gets a voucher."""
        granted: Flags = self.reason == 0
        return granted


def decide(candidates: Candidates, policy: Policy, *, decided_at: datetime, granted_today: int) -> Decisions:
    """Decide over one run's candidates.

    `decided_at` is the run's `until` (UTC). `granted_today` are the grants already committed on its day. Ties in the ranking are
    broken by the user's number, so that the order of rows does not matter.
    """
    rule = policy.voucher
    lowest, highest = rule.probability_range
    cool_down_us = rule.cool_down_days * 86_400_000_000
    now_us = round(decided_at.timestamp() * 1_000_000)
    arm = draw_arms(candidates.user_number, policy.experiment)

    reason = np.full(len(candidates.probability), -1, dtype=np.int8)
    in_cool_down = (candidates.last_granted_us > 0) & (now_us - candidates.last_granted_us < cool_down_us)
    # A user who redeemed a voucher within the cool-down gets no other one, whatever the source of the first.
    has_redeemed = (candidates.last_redeemed_us > 0) & (now_us - candidates.last_redeemed_us < cool_down_us)
    refusals: tuple[tuple[str, Flags], ...] = (
        ("no_profile", ~candidates.has_profile),
        ("no_consent", ~candidates.has_marketing_consent),
        ("probability_below_range", candidates.probability < lowest),
        ("probability_above_range", candidates.probability > highest),
        ("cool_down", in_cool_down),
        ("redeemed", has_redeemed),
        ("holdout", arm == ARMS.index("holdout")),
    )
    for code, applies in refusals:
        reason[(reason < 0) & applies] = ELIGIBILITY_REASONS.index(code)

    asking = np.flatnonzero(reason < 0)
    wish = candidates.probability[asking]
    if rule.ranking == "nearest_to_middle":
        wish = -np.abs(wish - (lowest + highest) / 2)
    ranked = asking[np.lexsort((candidates.user_number[asking], -wish))]
    left_today = max(rule.budget_per_day - granted_today, 0)
    granted = min(rule.budget_per_run, left_today)
    reason[ranked[:granted]] = ELIGIBILITY_REASONS.index("granted")
    short = "budget_run" if rule.budget_per_run <= left_today else "budget_day"
    reason[ranked[granted:]] = ELIGIBILITY_REASONS.index(short)
    return Decisions(reason=reason, arm=arm, valid_until=decided_at + timedelta(days=rule.valid_days))


def draw_arms(user_number: npt.NDArray[np.int64], experiment: Experiment) -> npt.NDArray[np.int8]:
    """Assign each user an arm, the same for the life of the salt; returns indexes into ARMS.

    The user's number (60 bits of md5) is mixed with the salt by the finaliser of splitmix64 (Steele, Lea and Flood,
    "Fast splittable pseudorandom number generators", 2014): uniform, and the same on every platform.
    """
    salt = np.uint64(int.from_bytes(hashlib.sha256(experiment.salt.encode()).digest()[:8], "big"))
    x = user_number.astype(np.uint64) ^ salt
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    # 53 bits give a double in [0, 1) exactly.
    draw = (x >> np.uint64(11)).astype(np.float64) / 2.0**53
    return (draw < experiment.holdout_ratio).astype(np.int8)
