"""A feature that knows the outcome stops training by name, wherever in its values it hides that; an honest one never does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from scoring.contract import Feature, FeatureContract
from training.bootstrap import clusters
from training.leak_screen import LABEL_SIDE, LeakRules, out_of_fold_auc, refuse_label_side, refuse_later_events, screen
from training.leak_views import views
from training.permuted_labels import auc_error, effective, permute
from warehouse.errors import ContractError

Labels = npt.NDArray[np.int64]
Make = Callable[[Labels, np.random.Generator], Any]

EXAMPLES_SQL = Path(__file__).parents[1] / "dbt" / "models" / "marts" / "fct_training_examples.sql"
OUTCOMES_SQL = Path(__file__).parents[1] / "dbt" / "models" / "intermediate" / "int_outcomes.sql"
HONEST = (
    Feature(name="fields_filled_ratio", type="number", range=(0, 1)),
    Feature(name="count_errors", type="number", range=(0, 100)),
    Feature(name="device_type", type="category"),
    Feature(name="income", type="number", range=(0, 1e9)),
)
RULES = LeakRules()


def make(count: int, seed: int, *, count_users: int | None = None) -> tuple[pa.Table, Labels]:
    """Make honest examples. Users differ in what they are likely to do; fields_filled_ratio alone has an AUC of about .8."""
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


# Leaks


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
    """Put the label into the parity of one decimal of a ratio, with random ones after it or none."""

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
    """A thousand customer numbers; which of them mean what, no order tells."""
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


@pytest.mark.parametrize(("make_it", "feature", "view"), [leak[1:] for leak in LEAKS], ids=[leak[0] for leak in LEAKS])
def test_a_leak_is_refused_by_name_and_says_where_it_hides(make_it: Make, feature: Feature, view: str) -> None:
    table, label = make(6_000, 1)
    leaking = table.append_column("suspect", pa.array(make_it(label, np.random.default_rng(2))))

    with pytest.raises(ContractError) as refused:
        run(leaking, label, feature)

    assert re.search(
        rf"^Feature suspect alone tells finished from unfinished \(AUC [.\d]+, by {view}\)\.$", str(refused.value), re.M
    )
    assert not any(honest.name in str(refused.value) for honest in HONEST)


def test_every_leak_is_named_and_more_than_five_are_counted() -> None:
    table, label = make(3_000, 3)
    for place in range(7):
        table = table.append_column(f"copy_{place}", pa.array(label))

    with pytest.raises(
        ContractError, match=r"(?s)^Feature copy_0 .*Feature copy_4 .*\nSo do 2 more: copy_5, copy_6\.\nThey were"
    ):
        run(table, label, *(number(f"copy_{place}") for place in range(7)))


def test_a_trusted_feature_is_screened_and_never_stops() -> None:
    table, label = make(3_000, 4)

    found = run(table.append_column("suspect", pa.array(label)), label, number(), rules=LeakRules(trusted=("suspect",)))

    assert (found.features[0].name, found.features[0].auc, found.features[0].is_leak) == ("suspect", 1.0, False)


def test_a_habit_of_users_is_no_leak_for_no_user_is_in_two_folds() -> None:
    """Sixty exits of a user, who always ends alike and has a number of their own: met again, it would tell all."""
    rng = np.random.default_rng(5)
    user = np.repeat(np.arange(100), 60)
    table, _ = make(6_000, 5)
    table = table.set_column(0, "user_id", pa.array([f"user-{one}" for one in user])).append_column(
        "suspect", pa.array(user)
    )

    found = run(table, rng.permutation(np.arange(100) % 2)[user], number())

    assert found.features[0].auc < 0.8


# Honest examples


@pytest.mark.parametrize("count", [200, 4_000])
@pytest.mark.parametrize("seed", range(6))
def test_honest_examples_pass_and_the_most_telling_feature_comes_first(count: int, seed: int) -> None:
    table, label = make(count, seed)
    rng = np.random.default_rng(seed)
    noise = [number(f"noise_{place}") for place in range(20)]
    for feature in noise:
        table = table.append_column(feature.name, pa.array(rng.normal(0, 1_000, count)))

    found = run(table, label, *noise, seed=seed)

    assert found.features[0].name == "fields_filled_ratio"
    assert 0.7 < found.features[0].auc < 0.9
    assert len(found.features) == 24
    assert found.count_rows == count


@pytest.mark.parametrize("unfinished", [3, 5, 9])
@pytest.mark.parametrize("seed", range(6))
def test_few_exits_of_one_outcome_do_not_trip_by_chance(unfinished: int, seed: int) -> None:
    table, _ = make(200, seed)
    rng = np.random.default_rng(seed)
    noise = [number(f"noise_{place}") for place in range(30)]
    for feature in noise:
        table = table.append_column(feature.name, pa.array(rng.integers(0, 1_000, 200)))
    label = np.zeros(200, dtype=np.int64)
    label[rng.choice(200, unfinished, replace=False)] = 1

    assert not any(feature.is_leak for feature in run(table, label, *noise, seed=seed).features)


def test_a_strong_honest_feature_passes_by_its_lower_bound_until_there_are_rows_to_know() -> None:
    rng = np.random.default_rng(6)
    label = np.arange(60) % 2
    score = label + rng.normal(0, 0.55, 60)
    assert roc_auc_score(label, score) > RULES.max_auc
    table, _ = make(60, 6, count_users=1_000_000)

    found = run(table.append_column("strong", pa.array(score)), label, number("strong"))

    assert not any(feature.is_leak for feature in found.features)


def test_columns_without_a_value_or_with_one_pass() -> None:
    table, label = make(600, 7)
    columns: dict[str, pa.Array] = {
        "void": pa.nulls(600),
        "none": pa.nulls(600, pa.float64()),
        "constant": pa.array(np.full(600, 3.5)),
        "infinite": pa.array([np.inf, -np.inf, np.inf] + [1.0] * 597),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    table = table.append_column("void_text", pa.nulls(600, pa.string()))

    found = run(table, label, *map(number, columns), category("void_text"))

    assert {feature.auc for feature in found.features if feature.name in {*columns, "void_text"}} == {0.5}


def test_a_sample_is_the_same_for_a_seed_and_another_for_another() -> None:
    table, label = make(5_000, 8)
    rules = LeakRules(max_rows=1_000)

    first, again, other = (run(table, label, rules=rules, seed=seed) for seed in (1, 1, 2))

    assert first == again
    assert first.features != other.features
    assert first.count_rows == 1_000


# What is known only after the exit


@pytest.mark.parametrize("name", ["label", "label_until", "is_treated", "experiment_arm", "finished_at", "Finished_At"])
def test_a_column_of_the_label_side_is_refused_by_name(name: str) -> None:
    with pytest.raises(ContractError, match=rf"declares {name}: known only after the exit"):
        refuse_label_side(FeatureContract(features=(*HONEST, number(name))))


def test_the_label_side_is_what_the_marts_put_beside_the_features() -> None:
    examples = EXAMPLES_SQL.read_text().rsplit("\nselect\n", 1)[1].split("features.*")[0]
    outcomes = OUTCOMES_SQL.read_text().rsplit("\nselect\n", 1)[1].split("\nfrom ")[0]
    of_examples = set(re.findall(r"as (\w+),", examples)) | set(re.findall(r"^    labelled\.(\w+),", examples, re.M))
    of_outcomes = set(re.findall(r"(?:^    |\) as |end as )(\w+),$", outcomes, re.M)) - {"user_id"}

    assert of_examples == {"label", "label_until", "experiment_arm", "is_treated"}
    assert of_examples | of_outcomes == LABEL_SIDE


@pytest.mark.parametrize(("late", "refused"), [(0, False), (1, True), (3, True)])
def test_features_made_from_later_events_are_refused_with_their_count(late: int, refused: bool) -> None:
    exited = np.datetime64("2026-01-01", "us") + np.arange(10)
    rows = pa.table({"exited_at": exited, "last_event_at": exited + (np.arange(10) < late)})

    if not refused:
        refuse_later_events(rows)
        return
    with pytest.raises(ContractError, match=rf"^{late} of 10 examples have features made from events after their exit"):
        refuse_later_events(rows)


# Permuted labels


def test_a_model_of_honest_examples_cannot_foretell_permuted_labels() -> None:
    table, label = make(4_000, 9)

    for seed in range(5):
        assert abs(run(table, label, seed=seed).permuted_auc - 0.5) < 0.1


def test_a_procedure_that_sees_the_judged_labels_is_refused() -> None:
    table, label = make(4_000, 10)

    def peeks(
        _rows: pa.Table, _contract: FeatureContract, label: Labels, user: npt.NDArray[np.int64], _learned: Any
    ) -> npt.NDArray[np.float64]:
        """Encode each user by the mean of all labels of theirs, the judged ones included."""
        return np.bincount(user, label)[user] / np.bincount(user)[user]

    with pytest.raises(
        ContractError, match=r"labels permuted between users.* AUC [.\d]+, where chance gives \.\d+ to \.\d+"
    ):
        run(table, label, rank=peeks)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.integers(0, 99))
def test_permuting_keeps_every_label_and_users_of_one_exit_each_only_change_places(users: list[int], seed: int) -> None:
    user = clusters(np.array(users))
    label = np.arange(len(users))

    permuted = permute(label, user, np.random.default_rng(seed))

    assert sorted(permuted) == sorted(label)


def test_the_exits_of_a_user_still_end_alike_after_permuting() -> None:
    user = np.random.default_rng(11).permutation(np.repeat(np.arange(50), 4))
    label = (user % 2).astype(np.int64)

    permuted = permute(label, user, np.random.default_rng(12))

    assert all(len(set(permuted[user == one])) == 1 for one in range(50))
    assert 10 < sum(bool((permuted[user == one] == label[user == one]).all()) for one in range(50)) < 40


# Laws


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_the_counted_auc_is_that_of_the_rows_fold_by_fold(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    count, folds = 300, 4
    codes, fold, label = (rng.integers(0, n, count) for n in (levels, folds, 2))
    wins = pairs = 0.0
    for one in range(folds):
        held, rest = fold == one, fold != one
        prior = label[rest].mean()
        sums, counts = np.bincount(codes[rest], label[rest], levels), np.bincount(codes[rest], minlength=levels)
        score = ((sums + 10 * prior) / (counts + 10))[codes[held]]
        weight = label[held].sum() * (1 - label[held]).sum()
        if weight:
            wins, pairs = wins + weight * roc_auc_score(label[held], score), pairs + weight

    assert out_of_fold_auc(codes, fold, label, folds) == pytest.approx(wins / pairs, abs=1e-9)


def test_the_error_of_an_auc_is_that_of_hanley_and_mcneil() -> None:
    # Their example: 58 normal and 51 abnormal images, area .893 (Radiology 143, 1982, table II and page 33): .032.
    assert auc_error(0.893, 51, 58) == pytest.approx(0.032, abs=0.0006)
    assert auc_error(0.5, 100, 300) == pytest.approx(np.sqrt(401 / (12 * 100 * 300)), rel=0.01)


def test_exits_of_one_user_count_as_one_where_users_have_equally_many() -> None:
    assert effective(np.repeat(np.arange(30), 7)) == pytest.approx(30)
    assert effective(np.arange(30)) == pytest.approx(30)
    assert effective(np.array([0] * 30)) == pytest.approx(1)
    assert effective(np.array([], dtype=np.int64)) == 0


@pytest.mark.parametrize(
    ("values", "words", "levels"),
    [
        ([0, 1, 2, -3, None], "whether it is odd", [1, 2, 1, 2, 0]),
        ([2**60, 2**60 + 1, None], "whether it is odd", [1, 2, 0]),
        ([12.0, 19.5, None, float("nan"), -7.9], "its last digit before the decimal point", [3, 10, 0, 0, 9]),
        ([0.12, 0.3, 5.0, -2.07], "digit 2 after its decimal point", [3, 1, 1, 8]),
        ([0.29, 0.57, 1.15, 4.35], "digit 2 after its decimal point", [10, 8, 6, 6]),
        ([0.5, 0.25, 3.0, 1 / 3], "how many decimals it has", [2, 3, 1, 11]),
        ([True, False, None], "its value", None),
        (["ab", None, "b", ""], "its length", [1, 0, 2, 3]),
    ],
)
def test_a_view_numbers_rows_by_one_aspect(values: list[Any], words: str, levels: list[int] | None) -> None:
    found = {view.words: view.codes.tolist() for view in views(pa.chunked_array([values]))}

    if levels is None:
        assert len(set(found[words])) == len(set(values))
    else:
        assert found[words] == levels
