"""The feature contract: the model's features, and the check that rows match it.

The contract is declared in `config/features.yml`, completed by training with category lists and medians, and shipped with the
model. A category that the model has never seen becomes missing here, because XGBoost 3.1 and 3.2 score it without warning as a
neighbouring one (dmlc/xgboost#12189).
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator
from pydantic_core import PydanticCustomError

from core.errors import ContractError
from scoring.faults import Faults
from scoring.shared_values import MIN_USERS, OTHER, SharedNumbers, shared_levels

Matrix = npt.NDArray[np.float32]

CONTRACT_VERSION: Final = 1


class Feature(BaseModel):
    """One feature: its type, range, missing policy, its phrases for marketing, and what training learned about it.

    `levels`, if given, are the only ones that a model may know. `rest` is the category that stands for all others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: Literal["number", "category"]
    range: tuple[FiniteFloat, FiniteFloat] | None = None
    missing: Literal["allowed", "refused"] = "allowed"
    low: str | None = None
    high: str | None = None
    reason: str | None = None
    monotone: Literal["increasing", "decreasing"] | None = None
    levels: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    rest: Literal["other"] | None = None
    median: FiniteFloat | None = None

    @model_validator(mode="after")
    def _fits_its_type(self) -> Feature:
        if self.type == "category" and (self.range or self.low or self.high):
            raise ValueError(f"feature {self.name}: a category has a reason, but no range, low or high")
        if self.type == "number" and (self.reason or self.range is None):
            raise ValueError(f"feature {self.name}: a number needs a range, and low and high instead of a reason")
        if self.range and self.range[0] > self.range[1]:
            raise ValueError(f"feature {self.name}: the first number of its range must not be above the second")
        if self.type == "category" and self.monotone:
            raise ValueError(f"feature {self.name}: a category has no order, so monotone cannot be {self.monotone}")
        if self.type == "number" and self.levels:
            raise ValueError(f"feature {self.name}: a number has no levels")
        return self


class FeatureContract(BaseModel):
    """The ordered features. `version` rejects bundles with another version of this format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = CONTRACT_VERSION
    features: tuple[Feature, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_and_phrases_are_unique(self) -> FeatureContract:
        names = [(place, "name", feature.name) for place, feature in enumerate(self.features)]
        phrases = [
            (place, key, phrase)
            for place, feature in enumerate(self.features)
            for key in ("low", "high", "reason")
            if (phrase := getattr(feature, key))
        ]
        for kind, values in (("feature", names), ("phrase", phrases)):
            seen: set[str] = set()
            for place, key, value in values:
                if value in seen:
                    context = {"kind": kind, "value": value, "at": ("features", place, key)}
                    raise PydanticCustomError("given_twice", "{kind} given twice: {value}. Keep one.", context)
                seen.add(value)
        return self

    @property
    def names(self) -> list[str]:
        """Feature names in the model's order."""
        return [feature.name for feature in self.features]

    @property
    def feature_types(self) -> list[str]:
        """XGBoost's type of each feature: `c` categorical, `q` quantitative."""
        return ["c" if feature.type == "category" else "q" for feature in self.features]

    @property
    def monotone_constraints(self) -> tuple[int, ...]:
        """XGBoost's constraint per feature. 1: a higher value may only raise the probability; -1: only lower it; 0: either."""
        return tuple({"increasing": 1, "decreasing": -1, None: 0}[feature.monotone] for feature in self.features)

    def check_columns(self, schema: pa.Schema, where: str) -> None:
        """Compare names and types with a mart's schema.

        Raises: ContractError naming each absent column and each column of the wrong type.
        """
        problems = []
        for feature in self.features:
            index = schema.get_field_index(feature.name)
            if index < 0:
                problems.append(f"column {feature.name} is absent")
                continue
            kind = schema.field(index).type
            fits = _is_text(kind) if feature.type == "category" else _is_number(kind)
            if not fits and not pa.types.is_null(kind):
                problems.append(f"column {feature.name} is {kind}, the contract says {feature.type}")
        if problems:
            raise ContractError(
                f"{where} does not match the feature contract: {'; '.join(problems)}. "
                "Restore the column in dbt, or train a model on the new contract."
            )

    def fits(self, rows: pa.Table | pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Return which rows have every required value; the others are to be set aside."""
        fits = np.ones(rows.num_rows, dtype=bool)
        for feature in self.features:
            if feature.missing == "refused":
                fits &= ~_is_missing(rows.column(feature.name))
        return fits

    def check_missing(self, rows: pa.Table, where: str) -> None:
        """Raises: ContractError when so many rows lack required values that a column was probably lost."""
        faults = Faults()
        faults.read(rows)
        for feature in self.features:
            if feature.missing == "refused":
                faults.add_missing(feature.name, _is_missing(rows.column(feature.name)))
        faults.check(where)

    def encode(self, rows: pa.Table | pa.RecordBatch, where: str, faults: Faults | None = None) -> Matrix:
        """Convert rows to the model's matrix, float32 of shape (rows, features). Missing is NaN, a category its index.

        A number out of range becomes missing. A level that the model does not know becomes `other`, or missing if the model has
        no such category. A caller that reads a table in parts passes `faults`, which count over all parts, and checks at the end.

        Raises: ContractError without `faults`, when the violations are too many: `Faults.check`.
        """
        counted = Faults() if faults is None else faults
        counted.read(rows)
        matrix = np.empty((rows.num_rows, len(self.features)), dtype=np.float32)
        for position, feature in enumerate(self.features):
            given = values = rows.column(feature.name)
            if feature.missing == "refused":
                counted.add_missing(feature.name, _is_missing(given))
            if feature.type == "category":
                values = _indexes(feature, values.cast(pa.string()))
            numbers = values.cast(pa.float32(), safe=False)
            is_array = isinstance(numbers, pa.Array)
            column = numbers.to_numpy(zero_copy_only=False) if is_array else numbers.to_numpy()
            matrix[:, position] = _in_range(feature, column, counted)
        if faults is None:
            counted.check(where)
        return matrix

    def learn(self, rows: pa.Table, min_level_users: int = MIN_USERS) -> FeatureContract:
        """Complete the contract with category lists, sorted, and medians from training rows.

        A `user_id` column names each row's user; without it, every row counts as a user. No value of fewer than 50 users is
        kept: see `scoring.shared_values`.
        """
        has_users = "user_id" in rows.column_names
        users = rows.column("user_id") if has_users else pa.chunked_array([np.arange(rows.num_rows)])
        user = pc.dictionary_encode(users).combine_chunks().indices.to_numpy(zero_copy_only=False)
        learned = []
        for feature in self.features:
            values = rows.column(feature.name)
            if feature.type == "category":
                names, has_rest = shared_levels(values, users, feature.levels, min_level_users)
                kept = {"categories": tuple(names), "rest": OTHER if has_rest else None}
                learned.append(feature.model_copy(update=kept))
            else:
                numbers = values.cast(pa.float64(), safe=False).to_numpy()
                median = None if np.isnan(numbers).all() else float(np.nanmedian(numbers))
                shared = None
                if median is not None and np.isfinite(median):
                    shared = SharedNumbers(numbers, user).above(median)
                learned.append(feature.model_copy(update={"median": shared}))
        return FeatureContract(features=tuple(learned))


def _indexes(feature: Feature, values: Any) -> Any:
    """Return the index of each value among the categories. An unknown one gets the index of `rest`, or none."""
    known = pa.array(feature.categories, pa.string())
    indexes = pc.index_in(values, value_set=known)
    if feature.rest is None:
        return indexes
    place = pa.scalar(feature.categories.index(feature.rest), pa.int32())
    return pc.if_else(pc.and_(pc.is_null(indexes), pc.is_valid(values)), place, indexes)


def _in_range(feature: Feature, column: Matrix, faults: Faults) -> Matrix:
    if feature.range is None or not len(column):
        return column
    lowest, highest = feature.range
    if np.nanmin(column, initial=lowest) >= lowest and np.nanmax(column, initial=highest) <= highest:
        return column
    outside = (column < lowest) | (column > highest)
    faults.add_outside(feature.name, feature.range, outside)
    return np.where(outside, np.float32(np.nan), column)


def _is_missing(values: Any) -> npt.NDArray[np.bool_]:
    """Return which values are null or not a number."""
    missing = pc.is_null(values, nan_is_null=pa.types.is_floating(values.type))
    found: npt.NDArray[np.bool_] = (
        missing.to_numpy(zero_copy_only=False) if isinstance(missing, pa.Array) else missing.to_numpy()
    )
    return found


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
