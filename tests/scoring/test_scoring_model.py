"""Scores and reasons of a really trained bundle: the same as in training, for any rows."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb

from core.errors import ContractError
from scoring.faults import Faults
from scoring.features import Feature, FeatureContract
from scoring.model import Model
from scoring.reasons import COUNT_REASONS, SEPARATOR, reasons
from scoring.registry.bundles import load_bundle
from training.config import TrainingRules
from training.fitting.booster import Fitter
from training.pipeline import Trained, train

COUNT = 2_000
DEVICES = ("desktop", "mobile", "smart_tv")
CONTRACT = FeatureContract(
    features=(
        Feature(name="fields_filled_ratio", type="number", range=(0, 1), low="little filled in", high="most filled in"),
        Feature(name="count_errors", type="number", range=(0, 100), missing="refused", high="many errors"),
        Feature(name="device_type", type="category", missing="refused", reason="uses {value}"),
        Feature(name="has_previous_year_filing", type="number", range=(0, 1), low="did not file", high="filed"),
        Feature(name="income", type="number", range=(0, 1e9)),
        Feature(name="employment_type", type="category"),
        Feature(name="unused", type="number", range=(0, 1), low="unused is low", high="unused is high"),
    )
)
FEATURES = CONTRACT.names


def make_examples() -> pa.Table:
    rng = np.random.default_rng(5)
    filled, errors, income = rng.random(COUNT), rng.poisson(2, COUNT), rng.normal(40_000, 9_000, COUNT)
    device, employed = rng.integers(0, 3, COUNT), rng.integers(0, 2, COUNT)
    log_odds = 2 - 4 * filled + 0.6 * (errors - 2) + 1.5 * (device == 2) + (40_000 - income) / 6_000 + 1.5 * employed
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return pa.table(
        {
            "label": (rng.random(COUNT) < 1 / (1 + np.exp(-log_odds))).astype(np.int64),
            "is_treated": pa.array(np.zeros(COUNT, dtype=bool)),
            "exit_id": [f"e{i}" for i in range(COUNT)],
            "user_id": [f"u{i}" for i in range(COUNT)],
            "exited_at": [start + timedelta(hours=i) for i in range(COUNT)],
            "fields_filled_ratio": pa.array(filled, mask=rng.random(COUNT) < 0.1),
            "count_errors": errors,
            "device_type": pa.array([DEVICES[i] for i in device]),
            "has_previous_year_filing": rng.random(COUNT) < 0.9,
            "income": income,
            "employment_type": [("full_time", "contractor")[i] for i in employed],
            "unused": pa.nulls(COUNT, pa.float64()),
        }
    )


@pytest.fixture(scope="module")
def examples() -> pa.Table:
    return make_examples()


@pytest.fixture(scope="module")
def trained(examples: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    models, at = tmp_path_factory.mktemp("models"), datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
    return train(
        examples, CONTRACT, models, trained_at=at, until=at, label_window_days=14, threads=1, rules=TrainingRules()
    )


@pytest.fixture(scope="module")
def model(trained: Trained) -> Model:
    return Model(load_bundle(trained.folder.parent, trained.version), threads=1)


def rows(*changes: dict[str, Any]) -> pa.Table:
    """Make one row for each argument, as changes to a plain row."""
    plain = {
        "fields_filled_ratio": 0.3,
        "count_errors": 2,
        "device_type": "mobile",
        "has_previous_year_filing": True,
        "income": 30_000.0,
        "employment_type": "full_time",
        "unused": None,
    }
    text, number = pa.string(), pa.float64()
    kinds = [number, pa.int64(), text, pa.bool_(), number, text, number]
    schema = pa.schema(list(zip(FEATURES, kinds, strict=True)))
    return pa.Table.from_pylist([{**plain, **change} for change in changes], schema=schema)


def scores(model: Model, table: pa.Table) -> list[float]:
    return [float(p) for p in model.predict(model.contract.encode(table, "rows"))]


def explain(model: Model, contributions: Sequence[Sequence[float]], table: pa.Table) -> list[str | None]:
    """Return the reasons of rows, given the model's contributions in the order of the features."""
    found: list[str | None] = reasons(
        model.contract, model.contract.encode(table, "rows"), np.array(contributions, dtype=np.float32)
    ).to_pylist()
    return found


# Scores


def test_the_bundle_scores_in_place_exactly_as_training_did_by_matrix(
    trained: Trained, model: Model, examples: pa.Table
) -> None:
    matrix = model.contract.encode(examples, "examples")
    booster = xgb.Booster(model_file=trained.folder / "model.json")
    told = Fitter(model.contract, seed=0, threads=1).probability(booster, matrix).astype(np.float32)
    np.testing.assert_array_equal(
        model.predict(matrix), load_bundle(trained.folder.parent, trained.version).calibration.apply(told)
    )


def test_rows_score_alike_alone_and_together_and_from_any_arrow_container(model: Model, examples: pa.Table) -> None:
    table = examples.slice(0, 50)
    together = scores(model, table)
    assert [scores(model, table.slice(i, 1))[0] for i in range(50)] == together
    assert scores(model, table.combine_chunks().to_batches()[0]) == together
    device = table.column_names.index("device_type")
    as_dictionary = table.set_column(device, "device_type", table.column("device_type").dictionary_encode())
    assert scores(model, as_dictionary) == together


@pytest.mark.parametrize("stranger", ["fridge", "mobilf", "desktop ", "Mobile", "zz", "", "a"])
def test_an_unseen_category_scores_exactly_as_a_missing_one(model: Model, stranger: str) -> None:
    unseen, missing, known = scores(
        model, rows({"employment_type": stranger}, {"employment_type": None}, {"employment_type": "contractor"})
    )
    assert unseen == missing
    assert unseen != known


def test_an_unseen_category_stops_nothing_where_a_null_is_refused(model: Model) -> None:
    matrix = model.contract.encode(rows({"device_type": "fridge"}), "rows")
    assert np.isnan(matrix[0, FEATURES.index("device_type")])


def test_an_absent_column_is_refused_by_name(model: Model, examples: pa.Table) -> None:
    lacking = examples.drop_columns(["income", "device_type"])
    with pytest.raises(ContractError, match="column device_type is absent; column income is absent"):
        model.contract.check_columns(lacking.schema, "fct_scoring_candidates")


def test_a_column_of_the_wrong_type_is_refused_by_name(model: Model, examples: pa.Table) -> None:
    index = examples.column_names.index("count_errors")
    as_text = examples.set_column(index, "count_errors", examples.column("count_errors").cast(pa.string()))
    with pytest.raises(ContractError, match="column count_errors is string, the contract says number"):
        model.contract.check_columns(as_text.schema, "fct_scoring_candidates")


@pytest.mark.parametrize(
    "table",
    [
        rows({}, {"count_errors": None}, {}),
        rows({}, {"device_type": None}, {}),
        rows({}, {}, {}).set_column(1, "count_errors", pa.array([2.0, float("nan"), 2.0])),
    ],
)
def test_a_row_without_a_value_that_is_refused_is_set_aside_alone(model: Model, table: pa.Table) -> None:
    faults = Faults()
    matrix = model.contract.encode(table, "rows", faults)
    faults.check("rows")
    assert model.contract.fits(table).tolist() == [True, False, True]
    np.testing.assert_array_equal(matrix[::2], model.contract.encode(rows({}, {}), "rows"))
    assert faults.out_of_range == {}


def test_a_few_values_out_of_range_become_missing_and_are_counted_and_the_rest_stay(model: Model) -> None:
    broken = [{"fields_filled_ratio": value} for value in (70.0, -0.1, float("inf"))]
    faults = Faults()
    matrix = model.contract.encode(rows(*broken, *[{}] * 300), "rows", faults)
    faults.check("rows")
    assert faults.out_of_range == {"fields_filled_ratio": 3}
    assert np.isnan(matrix[:, 0]).tolist() == [True] * 3 + [False] * 300
    assert scores(model, rows(broken[0])) == scores(model, rows({"fields_filled_ratio": None}))


def table_of(count: int, broken: int, users: int, *, is_lost: bool = False) -> pa.Table:
    """Make rows of which the first `broken`, of `users` users, have a ratio of 70, or no count of errors if `is_lost`."""
    place = np.arange(count)
    filled, errors = np.full(count, 0.5), np.full(count, 2.0)
    (errors if is_lost else filled)[:broken] = np.nan if is_lost else 70
    table = rows({}).take(pa.array(np.zeros(count, dtype=np.int64)))
    table = table.set_column(0, "fields_filled_ratio", pa.array(filled)).set_column(1, "count_errors", pa.array(errors))
    user = np.where(place < broken, place % users, place)
    return table.append_column("user_id", pa.array([f"u{n}" for n in user]))


# rows, odd rows, their users: a fifth of the rows, of at least 50 users, stops the run.
MANY = [(250, 50, 50), (250, 250, 250), (1_000, 200, 200), (300, 60, 50)]
A_FEW = [(1, 1, 1), (49, 49, 49), (251, 50, 50), (1_000, 199, 199), (300, 300, 49), (100_000, 2_000, 2_000)]


@pytest.mark.parametrize(("count", "broken", "users"), MANY)
@pytest.mark.parametrize("parts", [1, 3])
def test_a_unit_that_changed_is_refused_with_the_share_and_the_fix(
    model: Model, count: int, broken: int, users: int, parts: int
) -> None:
    faults, table = Faults(), table_of(count, broken, users)
    for place in np.array_split(np.arange(count), parts):
        model.contract.encode(table.take(pa.array(place)), "rows", faults)
    message = (
        rf"rows: fields_filled_ratio is outside 0 to 1 in {broken} of {count} rows \({broken / count:.0%}\), of {users} users. "
        r"Its unit may have changed.*config/features\.yml.*winback train"
    )
    with pytest.raises(ContractError, match=message):
        faults.check("rows")


@pytest.mark.parametrize(("count", "broken", "users"), A_FEW)
def test_fewer_are_taken_as_missing_and_stop_nothing(model: Model, count: int, broken: int, users: int) -> None:
    assert int(np.isnan(model.contract.encode(table_of(count, broken, users), "rows")[:, 0]).sum()) == broken


@pytest.mark.parametrize(("count", "broken", "users"), MANY)
def test_a_column_that_was_lost_is_refused_with_the_share_and_the_fix(
    model: Model, count: int, broken: int, users: int
) -> None:
    message = rf"count_errors is null in {broken} of {count} rows \({broken / count:.0%}\), of {users} users.*missing: allowed"
    with pytest.raises(ContractError, match=message):
        model.contract.encode(table_of(count, broken, users, is_lost=True), "rows")


@pytest.mark.parametrize(("count", "broken", "users"), A_FEW)
def test_fewer_rows_without_a_value_stop_nothing(model: Model, count: int, broken: int, users: int) -> None:
    table = table_of(count, broken, users, is_lost=True)
    model.contract.encode(table, "rows")
    assert int((~model.contract.fits(table)).sum()) == broken


def test_one_broken_row_does_not_stop_a_quiet_hour(model: Model) -> None:
    assert np.isnan(model.contract.encode(rows({"fields_filled_ratio": 70.0}, {}), "rows")[:, 0]).tolist() == [
        True,
        False,
    ]


def test_no_rows_are_no_scores(model: Model) -> None:
    empty = rows({}).slice(0, 0)
    matrix = model.contract.encode(empty, "rows")
    assert matrix.shape == (0, len(FEATURES))
    assert reasons(model.contract, matrix, matrix).to_pylist() == []


# Reasons


def test_reasons_of_real_rows_are_at_most_three_known_phrases(model: Model, examples: pa.Table) -> None:
    matrix = model.contract.encode(examples, "examples")
    parts = model.contributions(matrix)
    assert parts.shape == matrix.shape
    known = {"little filled in", "most filled in", "many errors", "uses desktop", "uses mobile", "uses smart tv"}
    known |= {"did not file", "filed"}
    said = [(text or "").split(SEPARATOR) for text in reasons(model.contract, matrix, parts).to_pylist()]
    assert max(map(len, said)) == COUNT_REASONS
    assert {phrase for phrases in said for phrase in phrases if phrase} <= known
    assert all(len(set(phrases)) == len(phrases) for phrases in said)


def test_contributions_of_a_row_add_up_to_its_log_odds(model: Model, examples: pa.Table) -> None:
    matrix = model.contract.encode(examples, "examples")
    probability = model.predict(matrix).astype(np.float64)
    bias = np.log(probability / (1 - probability)) - model.contributions(matrix).sum(axis=1)
    assert np.ptp(bias) < 1e-3


#  fields_filled_ratio, count_errors, device_type, has_previous_year_filing, income, employment_type, unused
@pytest.mark.parametrize(
    ("change", "contributions", "expected"),
    [
        ({}, [0.3, -1, 0.2, -1, -1, -1, 0], "little filled in; uses mobile"),
        ({}, [0.2, -1, 0.3, -1, -1, -1, 0], "uses mobile; little filled in"),
        (
            {"fields_filled_ratio": 0.9, "count_errors": 9},
            [0.1, 0.4, 0.3, 0.2, 0, 0, 0],
            "many errors; uses mobile; filed",
        ),
        ({}, [0, 0, 0, 0, 0, 0, 0], None),
        ({}, [-1, -1, -1, -1, -1, -1, -1], None),
        ({}, [-1, -1, -1, -1, 5, 5, 5], None),
        ({}, [0.1, -1, -1, -1, 5, 5, -1], "little filled in"),
        ({"device_type": "smart_tv"}, [-1, -1, 0.1, -1, -1, -1, -1], "uses smart tv"),
        ({"device_type": "fridge"}, [0.1, -1, 9, -1, -1, -1, -1], "little filled in"),
        ({"fields_filled_ratio": None}, [9, -1, 0.1, -1, -1, -1, -1], "uses mobile"),
        ({"fields_filled_ratio": 70.0}, [9, -1, 0.1, -1, -1, -1, -1], "uses mobile"),
        # A low number of errors has no phrase, and takes the place of no other reason.
        ({"count_errors": 0}, [0.3, 9, 0.2, 0.1, 0, 0, 0], "little filled in; uses mobile; filed"),
        # Nine of ten filed: the median is 1, and 1 is not low.
        ({"has_previous_year_filing": True}, [-1, -1, -1, 1, 0, 0, 0], "filed"),
        ({"has_previous_year_filing": False}, [-1, -1, -1, 1, 0, 0, 0], "did not file"),
    ],
)
def test_reasons_are_what_raises_the_risk_strongest_first(
    model: Model, change: dict[str, Any], contributions: list[float], expected: str | None
) -> None:
    assert explain(model, [contributions], rows(change)) == [expected]


def test_each_row_has_its_own_reasons(model: Model) -> None:
    table = rows({}, {"device_type": "desktop"}, {})
    contributions: list[list[float]] = [[0] * 7, [0, 0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]
    assert explain(model, contributions, table) == [None, "uses desktop", "little filled in"]


def test_a_real_cause_is_given_as_the_reason(model: Model) -> None:
    table = rows({"fields_filled_ratio": 0.02, "count_errors": 6, "device_type": "smart_tv"})
    matrix = model.contract.encode(table, "rows")
    (text,) = reasons(model.contract, matrix, model.contributions(matrix)).to_pylist()
    assert set(text.split(SEPARATOR)) == {"little filled in", "many errors", "uses smart tv"}
