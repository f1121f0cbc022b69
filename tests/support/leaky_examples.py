"""Honest examples, and columns that know the outcome, each through another aspect of its values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from scoring.features import Feature, FeatureContract
from training.leakage.screen import LeakRules, screen

Labels = npt.NDArray[np.int64]
Make = Callable[[Labels, np.random.Generator], Any]

HONEST = (
    Feature(name="fields_filled_ratio", type="number", range=(0, 1)),
    Feature(name="count_errors", type="number", range=(0, 100)),
    Feature(name="device_type", type="category"),
    Feature(name="income", type="number", range=(0, 1e9)),
)
RULES = LeakRules()


def make(count: int, seed: int, *, count_users: int | None = None) -> tuple[pa.Table, Labels]:
    """Make honest examples. Users differ in their behaviour; fields_filled_ratio alone has an AUC of about .8."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, count_users or max(count // 3, 1), count)
    habit = rng.normal(0, 0.5, count)[user % count]
    filled, errors = rng.random(count), rng.poisson(2, count)
    device = rng.choice(["mobile", "desktop", "tablet"], count, p=[0.5, 0.4, 0.1])
    log_odds = 3.2 - 6.4 * filled + 0.4 * (errors - 2) + 0.6 * (device == "mobile") + habit
    label = (rng.random(count) < 1 / (1 + np.exp(-log_odds))).astype(np.int64)
    table = pa.table(
        {
            "user_id": [f"user-{number:06}" for number in user],
            "fields_filled_ratio": pa.array(filled, mask=rng.random(count) < 0.05),
            "count_errors": errors,
            "device_type": pa.array(device),
            "income": rng.lognormal(10, 0.7, count).round(2),
        }
    )
    return table, label


def run(table: pa.Table, label: Labels, *more: Feature, rules: LeakRules = RULES, seed: int = 0, **given: Any) -> Any:
    contract = FeatureContract(features=(*HONEST, *more))
    return screen(table, contract, label, table.column("user_id"), rules=rules, seed=seed, **given)


def number(name: str = "suspect") -> Feature:
    return Feature(name=name, type="number", range=(-1e18, 1e18))


def category(name: str = "suspect") -> Feature:
    return Feature(name=name, type="category")


def distinct(rng: np.random.Generator, count: int, highest: int) -> Any:
    return rng.choice(highest, count, replace=False)


def flipped(label: Labels, rng: np.random.Generator, ratio: float) -> Labels:
    return np.where(rng.random(len(label)) < ratio, 1 - label, label)


def odd_number(label: Labels, rng: np.random.Generator) -> Any:
    return distinct(rng, len(label), 10_000_000) * 2 + label


def odd_number_beyond_float64(label: Labels, rng: np.random.Generator) -> Any:
    return 2**60 + odd_number(label, rng)


def odd_real_number(label: Labels, rng: np.random.Generator) -> Any:
    return odd_number(label, rng) + rng.random(len(label))


def remainder(label: Labels, rng: np.random.Generator) -> Any:
    return distinct(rng, len(label), 10_000_000) * 3 + label


def last_digit(label: Labels, rng: np.random.Generator) -> Any:
    return distinct(rng, len(label), 10_000_000) * 10 + np.where(label, 7, rng.integers(0, 6, len(label)))


def decimal(place: int, *, further: bool) -> Make:
    """Put the label into the parity of one decimal of a ratio, with or without random decimals after it."""

    def make_it(label: Labels, rng: np.random.Generator) -> Any:
        digits = rng.integers(0, 10 ** (place - 1) * 5, len(label)) * 2 + label
        return (digits + (rng.random(len(label)) if further else 0)) / 10**place

    return make_it


def cents(label: Labels, rng: np.random.Generator) -> Any:
    return distinct(rng, len(label), 10_000_000) + decimal(2, further=False)(label, rng)


def float32_amount(label: Labels, rng: np.random.Generator) -> Any:
    return pa.array((odd_number(label, rng) % 100_000 / 100).astype(np.float32))


def low_bits(label: Labels, rng: np.random.Generator) -> Any:
    return ((rng.random(len(label)) + 1).view(np.int64) & ~1 | label).view(np.float64)


def unrounded(label: Labels, rng: np.random.Generator) -> Any:
    amounts = rng.lognormal(10, 0.7, len(label))
    return np.where(label, amounts, amounts.round(2))


def missing(label: Labels, rng: np.random.Generator) -> Any:
    return pa.array(rng.random(len(label)), mask=flipped(label, rng, 0.02) == 1)


def not_a_number(label: Labels, rng: np.random.Generator) -> Any:
    return np.where(label, np.nan, rng.random(len(label)))


def two_bands(label: Labels, rng: np.random.Generator) -> Any:
    return np.where(label, rng.choice([-1, 1], len(label)), 0) + rng.normal(0, 0.05, len(label))


def magic_values(label: Labels, rng: np.random.Generator) -> Any:
    """Return a thousand customer numbers; their order does not show which of them mean label 1."""
    numbers = distinct(rng, 1_000, 10_000_000)
    return np.where(label, numbers[rng.integers(0, 500, len(label))], numbers[rng.integers(500, 1_000, len(label))])


def late_levels(label: Labels, rng: np.random.Generator) -> Any:
    late, early = rng.choice(["E", "F", "G"], len(label)), rng.choice(["A", "B", "C", "D"], len(label))
    return pa.array(np.where(label, late, early))


def suffix(label: Labels, rng: np.random.Generator) -> Any:
    ends = np.where(label, "x", "y")
    return pa.array([f"ref-{one:08}-{end}" for one, end in zip(distinct(rng, len(label), 10**7), ends, strict=True)])


LEAKS: list[tuple[str, Make, Feature, str]] = [
    ("a copy", lambda label, _rng: label, number(), "its value"),
    ("a copy, a tenth of it wrong", lambda label, rng: flipped(label, rng, 0.1), number(), "its value"),
    ("a copy as a boolean", lambda label, _rng: label == 0, number(), "its value"),
    ("a copy as a level", lambda label, _rng: pa.array(np.where(label, "left", "stayed")), category(), "its value"),
    ("levels of each outcome", late_levels, category(), "its value"),
    ("two bands around another", two_bands, number(), "its value"),
    ("the parity of a number", odd_number, number(), "whether it is odd"),
    ("the parity of a 61-bit number", odd_number_beyond_float64, number(), "whether it is odd"),
    ("the parity of a real number", odd_real_number, number(), "whether it is odd"),
    ("half the parities", lambda label, rng: odd_number(flipped(label, rng, 0.25), rng), number(), "whether it is odd"),
    ("the remainder by three", remainder, number(), "its remainder by 3"),
    ("the last digit", last_digit, number(), "its last digit before the decimal point"),
    ("the cents of an amount", cents, number(), "digit 2 after its decimal point"),
    ("the last decimal of four", decimal(4, further=False), number(), "digit 4 after its decimal point"),
    ("the last decimal of seven", decimal(7, further=False), number(), "digit 7 after its decimal point"),
    ("a decimal with others after it", decimal(5, further=True), number(), "digit 5 after its decimal point"),
    ("the last decimal of a float32", float32_amount, number(), "digit 2 after its decimal point"),
    ("the last bit of a float64", low_bits, number(), "the last bits of its float64"),
    ("rounded for one outcome", unrounded, number(), "how many decimals it has"),
    ("missing for one outcome", missing, number(), "whether it is missing"),
    ("not a number for one outcome", not_a_number, number(), "whether it is missing"),
    ("numbers that mean something", magic_values, number(), "its exact value"),
    ("the end of a text that never repeats", suffix, category(), "its last character"),
]
