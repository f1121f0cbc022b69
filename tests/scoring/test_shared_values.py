"""Shared values: a model holds no level, median, edge or threshold of fewer than 50 users, and few words become reasons."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ContractError
from scoring.features import Feature, FeatureContract
from scoring.features_file import load_contract
from scoring.reasons import SEPARATOR, reasons
from scoring.shared_values import SharedNumbers, between, is_wording
from tests.support.builders.incomes import CONTRACT, DEVICE, incomes, train_on_incomes
from training.config import TrainingRules
from training.evaluation.psi import reference
from training.fitting.thresholds import without_values

LISTED = DEVICE.model_copy(update={"levels": ("phone", "watch", "tablet")})


def learned(feature: Feature, levels: dict[str | None, int], *, exits: int = 1, min_users: int = 50) -> Feature:
    """Learn from a number of users per level, each with a number of exits."""
    names = [name for name, count in levels.items() for _ in range(count * exits)]
    users = [f"{name}-{n // exits}" for name, count in levels.items() for n in range(count * exits)]
    rows = pa.table({feature.name: pa.array(names, pa.string()), "user_id": users})
    return FeatureContract(features=(feature,)).learn(rows, min_users).features[0]


@pytest.mark.parametrize(
    ("feature", "levels", "exits", "categories", "rest"),
    [
        (DEVICE, {"phone": 50, "ada@example.org": 1}, 1, ("phone",), None),
        (DEVICE, {"phone": 50, "watch": 49}, 1, ("phone",), None),
        (DEVICE, {"phone": 50, "watch": 50}, 1, ("phone", "watch"), None),
        # Several exits of a user count once.
        (DEVICE, {"phone": 50, "watch": 49}, 20, ("phone",), None),
        # The rest becomes a level if it has enough users together.
        (DEVICE, {"phone": 50} | {f"utm {n}": 1 for n in range(50)}, 1, ("other", "phone"), "other"),
        (DEVICE, {"phone": 50} | {f"utm {n}": 1 for n in range(49)}, 1, ("phone",), None),
        (DEVICE, {"phone": 50, "other": 60}, 1, ("other", "phone"), "other"),
        (DEVICE, {"phone": 50, "other": 60, "watch": 3}, 1, ("other", "phone"), "other"),
        (DEVICE, {"phone": 50, "other": 30, "watch": 20}, 1, ("other", "phone"), "other"),
        (DEVICE, {"phone": 50, None: 70}, 1, ("phone",), None),
        (DEVICE, {None: 70}, 1, (), None),
        (DEVICE, {"phone": 3}, 1, (), None),
        # Levels of the configuration have no minimum of users, and are the only ones.
        (LISTED, {"phone": 3, "watch": 70, "ada": 90}, 1, ("other", "phone", "watch"), "other"),
        (LISTED, {"phone": 3, "ada": 9}, 1, ("phone",), None),
    ],
)
def test_a_category_keeps_the_levels_of_enough_users_and_pools_the_rest(
    feature: Feature, levels: dict[str | None, int], exits: int, categories: tuple[str, ...], rest: str | None
) -> None:
    found = learned(feature, levels, exits=exits)
    assert (found.categories, found.rest) == (categories, rest)


def test_the_least_number_of_users_may_be_set_higher() -> None:
    assert learned(DEVICE, {"phone": 99, "watch": 100}, min_users=100).categories == ("watch",)
    with pytest.raises(ValueError, match="greater than or equal to 50"):
        TrainingRules(min_level_users=49)


def test_what_the_model_does_not_know_is_other_where_it_learned_of_others_and_missing_elsewhere() -> None:
    rows = pa.table({"device_type": pa.array(["phone", "fridge", "other", None], pa.string())})

    def encoded(levels: dict[str | None, int]) -> list[float]:
        contract = FeatureContract(features=(learned(DEVICE, levels),))
        return [float(value) for value in contract.encode(rows, "rows")[:, 0]]

    nan = math.nan
    many: dict[str | None, int] = {"phone": 50, **{f"utm {n}": 1 for n in range(50)}}
    np.testing.assert_array_equal(encoded(many), [1, 0, 0, nan])
    np.testing.assert_array_equal(encoded({"phone": 50}), [0, nan, nan, nan])


# Reasons


@pytest.mark.parametrize(
    "level",
    [
        "phone", "smart_tv", "W_Nabellen offertes", "newsletter-2026", "Überweisung", "申込", "iPhone 15", "a" * 40,
    ],
)  # fmt: skip
def test_a_name_may_become_words(level: str) -> None:
    assert is_wording(level)


HOSTILE = [
    "ada@example.org", "<b>x</b>", "{{ user.email }}", "{% if 1 %}", "a; b", "https://evil.example", "evil.example",
    "call +49 170 1234567!", "49170", "a" * 41, "", " ", " x", "x\n", "x\ty", "a|b", "${x}", "x\u202ey", "a,b", "*|EMAIL|*",
    "'; drop", "a&b", "=cmd()", "-1", "%7B", "[link](x)",
]  # fmt: skip


@pytest.mark.parametrize("level", HOSTILE)
def test_text_that_is_no_name_never_becomes_words(level: str) -> None:
    assert not is_wording(level)


def test_reasons_are_at_most_three_phrases_whatever_the_levels_and_an_older_bundle_hold() -> None:
    """A bundle from before these rules may hold any level, and phrases with semicolons."""
    levels = tuple(sorted([*HOSTILE, "phone", "other"]))
    features = [Feature(name=f"f{n}", type="category", reason=f"{n} {{value}}", categories=levels) for n in range(3)]
    features.append(Feature(name="n", type="number", range=(0, 9), low="one; two; three", high="many", median=5.0))
    features[0] = features[0].model_copy(update={"rest": "other"})
    contract = FeatureContract(features=tuple(features))
    matrix = np.array([[n, n, n, 1] for n in range(len(levels))], dtype=np.float32)
    weights = np.tile(np.array([4, 3, 2, 1], dtype=np.float32), (len(levels), 1))
    found = dict(zip(levels, reasons(contract, matrix, weights).to_pylist(), strict=True))
    assert found.pop("phone") == "0 phone; 1 phone; 2 phone"
    assert found.pop("other") == "1 other; 2 other; one, two, three"
    assert set(found.values()) == {"one, two, three"}
    assert max(len(text.split(SEPARATOR)) for text in found.values()) == 1


@pytest.mark.parametrize(
    ("phrase", "message"),
    [
        ("low: 'a; b'", "feature x: a phrase holds a semicolon"),
        ("low: 'a;'", "feature x: a phrase holds a semicolon"),
        (
            "low: 'new {{ ${first_name} }} account'",
            "feature x: a reason may contain {value} once; no phrase may contain other braces",
        ),
        (
            "high: 'old {value} account'",
            "feature x: a reason may contain {value} once; no phrase may contain other braces",
        ),
        ("low: ''", "feature x: a phrase must have between 1 and 120 characters"),
        (f"low: '{'a' * 121}'", "feature x: a phrase must have between 1 and 120 characters"),
        ("low: '<b>new</b>'", "feature x: a phrase must be one line of plain words"),
        ('low: "new\\u200baccount"', "feature x: a phrase must be one line of plain words"),
        ('low: "new\\naccount"', "feature x: a phrase must be one line of plain words"),
    ],
)
def test_a_phrase_that_is_more_than_words_is_refused(phrase: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "features.yml"
    file.write_text(f"features:\n  - {{name: x, type: number, range: [0, 1], {phrase}}}\n")
    with pytest.raises(ContractError, match=message):
        load_contract(file)


@pytest.mark.parametrize(
    "reason",
    ["uses {device}", "uses {", "uses {value!r}", "uses {value.x}", "by {valu} {value} now", "{value} {value}"],
)
def test_a_reason_takes_no_braces_but_those_of_the_value(reason: str, tmp_path: Path) -> None:
    file = tmp_path / "features.yml"
    file.write_text(f"features:\n  - {{name: x, type: category, reason: '{reason}'}}\n")
    with pytest.raises(ContractError, match=r"feature x: a reason may contain \{value\} once"):
        load_contract(file)


# Numbers

NUMBERS = st.floats(-1e9, 1e9, width=32)


@given(NUMBERS, NUMBERS)
def test_between_two_numbers_lies_a_short_one_that_is_neither(one: float, other: float) -> None:
    low, high = sorted((one, other))
    number = between(low, high)
    if np.nextafter(np.float32(low), np.float32(math.inf)) < np.float32(high):
        assert np.float32(low) < np.float32(number) < np.float32(high)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(2, 3, 2.5), (43217, 43218, 43217.5), (43217.5, 43312.75, 43300), (99, 101, 100), (-1, 1, 0), (0.3, 0.31, 0.305)],
)
def test_the_short_number_is_the_shortest(low: float, high: float, expected: float) -> None:
    assert between(low, high) == expected


@given(st.lists(NUMBERS, min_size=1, max_size=60), st.lists(st.integers(0, 3), max_size=200), NUMBERS)
def test_a_number_is_replaced_unless_50_users_have_it_and_parts_the_same_rows(
    few: list[float], many: list[int], value: float
) -> None:
    values = np.array([*few, *many], dtype=np.float32)
    numbers = SharedNumbers(values)
    for number in (np.float32(value), *values[:3]):
        above, below = np.float32(numbers.above(number)), np.float32(numbers.below(number))
        if np.sum(values == number) >= 50:
            assert above == below == number
            continue
        gaps = np.diff(np.unique(values))
        if len(gaps) and gaps.min() < 1e-3:
            continue  # no number lies between neighbours in single precision
        np.testing.assert_array_equal(values > number, values > above)
        np.testing.assert_array_equal(values < number, values < below)
        assert above not in values
        assert below not in values


def test_one_user_with_many_exits_is_one_user() -> None:
    values, users = np.full(80, 7.25), np.array(["u"] * 80)
    assert SharedNumbers(values).above(7.25) == 7.25
    assert SharedNumbers(values, users).above(7.25) != 7.25


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_on_incomes(tmp_path_factory.mktemp("models"))


def numbers_in(text: str) -> set[float]:
    return {float(np.float32(number)) for number in re.findall(r"-?\d+\.?\d*(?:[eE][+-]?\d+)?", text)}


def test_no_file_of_a_bundle_holds_a_word_or_a_moment_of_one_user(bundle: Path) -> None:
    rows = incomes()
    files = {path.name: path.read_bytes() for path in bundle.iterdir()}
    words = [w for name in ("device_type", "referral_source", "user_id") for w in rows.column(name).to_pylist()]
    moments = [moment.isoformat()[:26] for moment in rows.column("exited_at").to_pylist()]
    of_one = {word for word in words if words.count(word) < 50} | set(moments)
    assert [(name, word) for name, content in files.items() for word in of_one if word.encode() in content] == []


def test_no_number_of_a_bundle_is_an_income(bundle: Path) -> None:
    told = {name: numbers_in((bundle / name).read_text()) for name in ("contract.json", "reference.json", "card.md")}
    model = json.loads((bundle / "model.json").read_text())
    trees = model["learner"]["gradient_booster"]["model"]["trees"]
    told["model.json"] = {
        float(np.float32(tree["split_conditions"][node]))
        for tree in trees
        for node, child in enumerate(tree["left_children"])
        if child != -1
    }
    incomes_told = {float(np.float32(value)) for value in incomes().column("income").to_pylist()}
    assert {name: sorted(numbers & incomes_told) for name, numbers in told.items() if numbers & incomes_told} == {}
    assert any(value > 1_000 for value in told["model.json"])  # the model does use incomes


def test_thresholds_are_replaced_without_another_prediction() -> None:
    rows = incomes()
    contract = CONTRACT.learn(rows)
    matrix, label = contract.encode(rows, "rows"), rows.column("label").to_numpy()
    data = xgb.DMatrix(matrix, label, feature_types=contract.feature_types, enable_categorical=True)
    before = xgb.train({"objective": "binary:logistic", "nthread": 1, "max_depth": 4}, data, 20)
    users: Any = np.arange(len(matrix))
    after = without_values(before, contract, matrix, users)
    np.testing.assert_array_equal(before.predict(data), after.predict(data))
    assert bytes(before.save_raw("json")) != bytes(after.save_raw("json"))
    again = without_values(after, contract, matrix, users)
    assert bytes(again.save_raw("json")) == bytes(after.save_raw("json"))


def test_edges_of_the_reference_part_the_rows_in_tenths_and_are_no_income() -> None:
    rows = incomes()
    contract = CONTRACT.learn(rows)
    matrix = contract.encode(rows, "rows")
    kept = reference(contract, matrix, np.arange(len(matrix))).features
    assert set(map(np.float32, kept["income"].edges)).isdisjoint(matrix[:, 0])
    assert kept["income"].shares[1:] == pytest.approx([0.1] * 10, abs=0.001)
    # Counts that many users share stay integers.
    assert kept["count_errors"].edges == (0, 1, 2, 3, 4)
