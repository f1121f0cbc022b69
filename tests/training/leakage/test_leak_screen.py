"""Leak screen: a feature that reveals the outcome stops training and is named; honest features pass."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from core.errors import ContractError
from scoring.features import Feature, FeatureContract
from tests.support.leaky_examples import HONEST, LEAKS, RULES, Make, category, make, number, run
from training.leakage.screen import LABEL_SIDE, LeakRules, out_of_fold_auc, refuse_label_side, refuse_later_events

EXAMPLES_SQL = Path(__file__).parents[3] / "dbt" / "models" / "marts" / "features" / "fct_training_examples.sql"
OUTCOMES_SQL = Path(__file__).parents[3] / "dbt" / "models" / "intermediate" / "int_outcomes.sql"

# Leaks


@pytest.mark.parametrize(("make_it", "feature", "view"), [leak[1:] for leak in LEAKS], ids=[leak[0] for leak in LEAKS])
def test_a_leak_is_refused_by_name_and_says_where_it_hides(make_it: Make, feature: Feature, view: str) -> None:
    table, label = make(6_000, 1)
    leaking = table.append_column("suspect", pa.array(make_it(label, np.random.default_rng(2))))

    with pytest.raises(ContractError) as refused:
        run(leaking, label, feature)

    assert re.search(
        rf"^Feature suspect alone separates finished from unfinished exits \(AUC [.\d]+, by {view}\)\.$",
        str(refused.value),
        re.M,
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
    """Sixty exits per user, who always ends the same way and has a number of their own, which would reveal everything."""
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


# Columns that are known only after the exit


@pytest.mark.parametrize("name", ["label", "label_until", "is_treated", "experiment_arm", "finished_at", "Finished_At"])
def test_a_column_of_the_label_side_is_refused_by_name(name: str) -> None:
    with pytest.raises(ContractError, match=rf"declares {name}. This is known only after the exit"):
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


# Laws


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
