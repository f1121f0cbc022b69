"""Training: it learns an existing signal, measures it fairly, and writes a valid bundle."""

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from core.errors import ContractError
from scoring.features import Feature, FeatureContract
from scoring.model import Model
from scoring.registry.bundles import load_bundle, versions, write_manifest
from training.config import TrainingRules
from training.evaluation import metrics as evaluate
from training.fitting.search import SearchRules
from training.pipeline import Trained, train

TRAINED_AT = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
START = datetime(2026, 1, 1, tzinfo=UTC)
RULES = TrainingRules(search=SearchRules(trials=0))
CONTRACT = FeatureContract(
    features=(
        Feature(name="fields_filled_ratio", type="number", range=(0, 1), low="little is filled in"),
        Feature(name="count_errors", type="number", range=(0, 100), missing="refused", high="many errors"),
        Feature(name="device_type", type="category", reason="uses {value}"),
        Feature(name="income", type="number", range=(0, 1e9)),
    )
)


def make(count: int = 4_000, *, days: float = 80, signal: float = 1.0, seed: int = 3) -> pa.Table:
    """Make examples, one exit per user, evenly over the days. With `signal` 0 the labels are random."""
    rng = np.random.default_rng(seed)
    filled, errors = rng.random(count), rng.poisson(2, count)
    device = rng.choice(["mobile", "desktop", "tablet"], count, p=[0.5, 0.4, 0.1])
    log_odds = signal * (3 - 6 * filled + 0.5 * (errors - 2) + 1.0 * (device == "mobile"))
    return pa.table(
        {
            "label": pa.array((rng.random(count) < 1 / (1 + np.exp(-log_odds))).astype(np.int64)),
            "is_treated": pa.array(np.zeros(count, dtype=bool)),
            "exit_id": [f"exit-{i:06}" for i in range(count)],
            "user_id": [f"user-{i:06}" for i in rng.permutation(count)],
            "exited_at": [START + timedelta(days=days * i / count) for i in range(count)],
            "fields_filled_ratio": pa.array(filled, mask=rng.random(count) < 0.05),
            "count_errors": errors,
            "device_type": pa.array(device),
            "income": rng.normal(40_000, 9_000, count).round(),
        }
    )


def put(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def fit(table: pa.Table, models: Path, **changes: Any) -> Trained:
    arguments: dict[str, Any] = {
        "trained_at": TRAINED_AT,
        "until": TRAINED_AT,
        "label_window_days": 14,
        "threads": 1,
        "rules": RULES,
    } | changes
    return train(table, arguments.pop("declared", CONTRACT), models, **arguments)


@pytest.fixture(scope="module")
def examples() -> pa.Table:
    return make()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def trained(examples: pa.Table, models: Path) -> Trained:
    return fit(examples, models)


# Fit and metrics


def test_a_model_learned_from_a_clear_signal_beats_the_base_rate(trained: Trained) -> None:
    assert trained.metrics["auc"] > 0.8
    assert trained.metrics["brier_skill"] > 0.3
    assert trained.metrics["lift_at_10_percent"] > 1.5
    assert trained.metrics["calibration_error"] < 0.1


def test_labels_of_pure_chance_cannot_be_learned_and_the_card_says_so(tmp_path: Path) -> None:
    noise = fit(make(signal=0, count=15_000), tmp_path)
    assert noise.metrics["auc"] == pytest.approx(0.5, abs=0.06)
    assert noise.metrics["brier_skill"] == pytest.approx(0, abs=0.03)
    says_useless = "does not beat always predicting the average" in (noise.folder / "card.md").read_text()
    assert says_useless == (noise.metrics["brier_skill"] <= 0)


def test_examples_of_users_who_held_a_voucher_never_reach_the_fit(
    examples: pa.Table, trained: Trained, tmp_path: Path
) -> None:
    treated = put(make(count=400, seed=8), "is_treated", [True] * 400)
    treated = put(treated, "label", pc.subtract(1, treated.column("label")).to_pylist())
    treated = put(treated, "device_type", ["fridge"] * 400)
    both = fit(pa.concat_tables([treated, examples]), tmp_path)
    assert (both.folder / "model.json").read_bytes() == (trained.folder / "model.json").read_bytes()
    assert "fridge" not in (both.folder / "contract.json").read_text()
    assert both.metrics == trained.metrics | {"count_treated_left_out": 400.0}


def test_the_same_examples_give_the_same_bytes_in_any_order_and_on_any_number_of_threads(
    examples: pa.Table, trained: Trained, tmp_path: Path
) -> None:
    shuffled = examples.take(pa.array(np.random.default_rng(0).permutation(examples.num_rows)))
    again = fit(shuffled, tmp_path, threads=2)
    assert again.version == trained.version
    for name in (
        "model.json",
        "contract.json",
        "metrics.json",
        "reference.json",
        "ranking.png",
        "card.md",
        "card.html",
    ):
        assert (again.folder / name).read_bytes() == (trained.folder / name).read_bytes(), name


def test_another_seed_gives_another_model(examples: pa.Table, trained: Trained, tmp_path: Path) -> None:
    assert fit(examples, tmp_path, rules=RULES.model_copy(update={"seed": 1})).version != trained.version


def test_categories_and_medians_are_learned_from_what_ships(trained: Trained, models: Path) -> None:
    filled, errors, device, income = load_bundle(models, trained.version).contract.features
    assert device.categories == ("desktop", "mobile", "tablet")
    assert filled.median == pytest.approx(0.5, abs=0.05)
    assert (errors.median, income.categories) == (2, ())


def test_a_short_history_shortens_the_gap_and_the_card_says_so(tmp_path: Path) -> None:
    short = fit(make(count=800, days=30), tmp_path)
    assert short.metrics["gap_days"] == pytest.approx(0.4 * 30, abs=0.1)
    assert "the gap before the test period is 12.0 days instead of a label window of 14" in (
        (short.folder / "card.md").read_text()
    )


def test_a_whole_gap_is_one_label_window(trained: Trained) -> None:
    assert trained.metrics["gap_days"] == 14
    assert "the history is short" not in (trained.folder / "card.md").read_text()


def test_a_search_is_listed_by_its_log_loss_and_the_same_seed_finds_the_same(
    examples: pa.Table, tmp_path: Path
) -> None:
    rules = RULES.model_copy(update={"search": SearchRules(trials=2)})
    first = fit(examples, tmp_path / "a", rules=rules)
    again = fit(examples, tmp_path / "b", rules=rules, threads=2)
    assert (first.folder / "model.json").read_bytes() == (again.folder / "model.json").read_bytes()


@pytest.mark.parametrize(
    ("label", "probability", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], {"auc": 1.0, "calibration_error": 0.15, "brier": 0.025}),
        ([0, 0, 1, 1], [0.9, 0.8, 0.2, 0.1], {"auc": 0.0, "calibration_error": 0.85, "brier": 0.725}),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], {"auc": 0.5, "brier": 0.25, "brier_skill": 0.0, "base_rate": 0.5}),
        ([1, *[0] * 19], [0.9, *[0.1] * 19], {"lift_at_10_percent": 10.0, "base_rate": 0.05}),
    ],
)
def test_the_metrics_are_those_of_the_textbook(
    label: list[int], probability: list[float], expected: dict[str, float]
) -> None:
    metrics = evaluate.measure(np.array(label), np.array(probability), train_rate=0.5)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_small_slices_are_not_shown() -> None:
    label, probability = np.tile([0, 1], 55), np.tile([0.25, 0.75], 55)
    shown = evaluate.slices(["mobile"] * 60 + [None] * 50, label, probability)
    assert [(s.name, s.count, s.auc) for s in shown] == [("mobile", 60, 1.0), ("unknown", 50, 1.0)]
    assert evaluate.slices(["mobile"] * 49, label[:49], probability[:49]) == []


# The bundle


def test_a_later_bundle_stands_beside_the_first_and_its_card_compares_the_two(
    examples: pa.Table, trained: Trained, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained.folder, tmp_path / trained.version)
    second = fit(examples, tmp_path, until=TRAINED_AT + timedelta(hours=1), last=load_bundle(models, trained.version))
    assert versions(tmp_path) == [trained.version, second.version]
    assert trained.version in (second.folder / "card.md").read_text()


def test_a_bundle_verifies_and_a_flipped_byte_is_refused(trained: Trained, models: Path, tmp_path: Path) -> None:
    bundle = load_bundle(models, trained.version)
    assert (bundle.trained_at, bundle.metrics) == (TRAINED_AT, trained.metrics)
    shutil.copytree(trained.folder, tmp_path / trained.version)
    model = tmp_path / trained.version / "model.json"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(ContractError, match=r"model\.json is missing or was altered"):
        load_bundle(tmp_path, trained.version)


def test_training_the_same_again_keeps_the_bundle_that_is_there(
    examples: pa.Table, trained: Trained, models: Path
) -> None:
    before = (trained.folder / "manifest.json").stat().st_mtime_ns
    assert fit(examples, models) == trained
    assert (trained.folder / "manifest.json").stat().st_mtime_ns == before


def test_a_crash_while_writing_leaves_no_bundle_and_the_next_attempt_succeeds(
    examples: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.bundle_writer.os", SimpleNamespace(replace=killed))
    with pytest.raises(KeyboardInterrupt):
        fit(examples, tmp_path)
    monkeypatch.undo()
    assert versions(tmp_path) == []
    version = fit(examples, tmp_path).version
    assert [path.name for path in tmp_path.iterdir()] == [version]


# The card


def test_the_card_shows_nobody(trained: Trained, examples: pa.Table) -> None:
    texts = [(trained.folder / name).read_text() for name in ("card.md", "card.html", "metrics.json", "contract.json")]
    for ids in ("user_id", "exit_id"):
        assert not any(value in text for value in examples.column(ids).to_pylist() for text in texts)


def test_what_speaks_against_the_model_is_returned_as_it_stands_on_the_card(trained: Trained) -> None:
    card = (trained.folder / "card.md").read_text()
    assert trained.warnings == tuple(re.findall(r"> \*\*Warning:\*\* (.*)", card))
    assert trained.warnings


def test_the_metrics_file_is_what_training_returned(trained: Trained) -> None:
    assert json.loads((trained.folder / "metrics.json").read_text()) == trained.metrics


# A few odd examples, and the values of one user


def odd(count: int, **changes: Any) -> pa.Table:
    """Make examples of additional users, all with the same odd values."""
    table = make(count=count, seed=8).append_column("last_event_at", pa.array([START] * count))
    for name, values in {"user_id": [f"odd-{i}" for i in range(count)], **changes}.items():
        table = put(table, name, values if isinstance(values, list) else [values] * count)
    return table


@pytest.mark.parametrize(
    "changes",
    [
        {"count_errors": pa.nulls(40, pa.int64()).to_pylist()},
        {"last_event_at": START + timedelta(days=400)},
    ],
)
def test_a_few_examples_that_break_the_contract_are_set_aside_and_bend_nothing(
    changes: dict[str, Any], examples: pa.Table, trained: Trained, tmp_path: Path
) -> None:
    sound = examples.append_column("last_event_at", examples.column("exited_at"))
    both = pa.concat_tables([odd(40, **changes).cast(sound.schema), sound])
    fitted = fit(both, tmp_path)
    assert (fitted.folder / "model.json").read_bytes() == (trained.folder / "model.json").read_bytes()
    assert fitted.metrics == trained.metrics | {"count_set_aside": 40.0}
    assert "40 examples lack a required value" in (fitted.folder / "card.md").read_text()


def test_values_out_of_range_count_as_missing_and_the_card_says_how_many(examples: pa.Table, tmp_path: Path) -> None:
    filled = examples.column("fields_filled_ratio").to_pylist()
    percent = put(examples, "fields_filled_ratio", [70.0 if i % 40 == 0 else value for i, value in enumerate(filled)])
    missing = put(examples, "fields_filled_ratio", [None if i % 40 == 0 else value for i, value in enumerate(filled)])
    one, other = fit(percent, tmp_path / "a"), fit(missing, tmp_path / "b")
    assert (one.folder / "model.json").read_bytes() == (other.folder / "model.json").read_bytes()
    assert "Values out of range, treated as missing: fields_filled_ratio 5" in (one.folder / "card.md").read_text()


# Refused input


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.slice(0, 199), "holds 199 untreated examples; training needs 200"),
        (lambda t: put(t, "is_treated", [True] * t.num_rows), "holds 0 untreated examples"),
        (lambda t: put(t, "label", [1] * t.num_rows), "ended unfinished.*completion_events"),
        (lambda t: put(t, "label", [0] * t.num_rows), "ended finished"),
        (lambda t: put(t, "label", [2] * t.num_rows), "label holds 2"),
        (lambda t: put(t, "label", [None, *[1] * (t.num_rows - 1)]), "label holds None"),
        (
            lambda t: put(t, "label", [1] * (t.num_rows - 400) + [0] * 400),
            "the fit period holds .* without both outcomes",
        ),
        (lambda t: put(t, "exited_at", [START] * t.num_rows), "the fit period holds 0 of 4000 examples"),
        (lambda t: t.drop_columns(["income"]), "column income is absent"),
        (lambda t: t.drop_columns(["label", "user_id"]), "lacks label, user_id"),
        (
            lambda t: put(t, "count_errors", [None] * t.num_rows),
            r"fct_training_examples: count_errors is null in 4000 of 4000 rows \(100%\), of 4000 users",
        ),
        (lambda t: put(t, "fields_filled_ratio", [70.0] * t.num_rows), "Its unit may have changed"),
    ],
)
def test_examples_that_cannot_be_learned_from_are_refused_and_nothing_is_written(
    spoil: Any, message: str, examples: pa.Table, tmp_path: Path
) -> None:
    with pytest.raises(ContractError, match=message):
        fit(spoil(examples), tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_feature_that_tells_the_outcome_by_its_parity_stops_training_by_name(
    examples: pa.Table, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    label = examples.column("label").to_numpy()
    leaking = put(examples, "count_errors", 2 * rng.integers(0, 40, len(label)) + label)
    with pytest.raises(ContractError, match="count_errors"):
        fit(leaking, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"version": 2}, "has feature contract 2, this program reads 1"),
        ({"version": 1, "windows": []}, r"contract\.json does not have this program's format"),
    ],
)
def test_a_bundle_of_a_newer_contract_is_refused_in_one_sentence(
    told: dict[str, Any], message: str, trained: Trained, tmp_path: Path
) -> None:
    folder = tmp_path / trained.version
    shutil.copytree(trained.folder, folder)
    contract = json.loads((folder / "contract.json").read_text()) | told
    (folder / "contract.json").write_text(json.dumps(contract))
    write_manifest(folder, version=trained.version, trained_at=TRAINED_AT, learned_until=START)
    with pytest.raises(ContractError, match=message):
        load_bundle(tmp_path, trained.version)


def test_a_feature_declared_monotone_may_only_move_one_way(examples: pa.Table, tmp_path: Path) -> None:
    # Declared opposite to the truth, so that an unconstrained fit would fall.
    features = [
        f.model_copy(update={"monotone": "increasing"}) if f.name == "fields_filled_ratio" else f
        for f in CONTRACT.features
    ]
    wrong = fit(examples, tmp_path, declared=FeatureContract(features=tuple(features)))
    model = Model(load_bundle(tmp_path, wrong.version))
    rows = np.repeat(model.contract.encode(examples.slice(0, 50), "examples"), 11, axis=0)
    rows[:, 0] = np.tile(np.linspace(0, 1, 11), 50)
    assert (np.diff(model.predict(rows).reshape(50, 11), axis=1) >= 0).all()
