"""Derived features: the SQL keeps them within the ranges of the feature contract, whatever the events contain."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scoring.features_file import load_contract

ROOT = Path(__file__).parents[2]
SQL = (ROOT / "dbt/models/marts/features/fct_exit_features.sql").read_text()
# {{ per_minute(..., lowest, highest) }} as name
BOUNDED = re.findall(r"\{\{ (?:per_minute|clipped|within)\(.*, (-?\d+), (-?\d+)\) \}\}\s+as (\w+)", SQL)
DERIVED = [
    "fields_filled_gain_per_minute",
    "fields_filled_ratio_per_input",
    "last_session_events_per_minute",
    "seconds_since_account_created",
]


@pytest.mark.parametrize("contract", ["config/features.yml", "examples/loan_applications/features.yml"])
def test_the_bounds_in_sql_are_the_ranges_of_the_contract(contract: str) -> None:
    ranges = {feature.name: feature.range for feature in load_contract(ROOT / contract).features}
    assert [name for *_, name in BOUNDED if name in DERIVED] == DERIVED
    assert {name: (float(low), float(high)) for low, high, name in BOUNDED if name in ranges} == {
        name: ranges[name] for name in DERIVED if name in ranges
    }


def test_every_quotient_is_bounded() -> None:
    """New quotients must be bounded too, because a denominator near 0 can give any value."""
    bare = [
        line.strip()
        for line in SQL.splitlines()
        if " / " in line and not line.lstrip().startswith("--") and not re.search(r"\{\{ (per_minute|clipped)\(", line)
    ]
    assert [line for line in bare if "604800000000" not in line] == []
