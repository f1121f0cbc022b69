"""Which features does the model see, and do the rows at hand keep to that?

The contract is declared in `config/features.yml`, completed by training with category lists and medians, and shipped with the
model. A value the model has never seen becomes missing here, before XGBoost: 3.1 and 3.2 silently score an unseen category as a
neighbouring one (dmlc/xgboost#12189).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from warehouse.errors import ContractError
from warehouse.yaml_files import read_yaml

Matrix = npt.NDArray[np.float32]

CONTRACT_VERSION: Final = 1

# A handful of broken rows must not stop an hour, however few rows it has; a changed unit breaks nearly all of them.
MAX_OUT_OF_RANGE_RATIO = 0.01
MAX_OUT_OF_RANGE_ROWS = 5


class Feature(BaseModel):
    """One feature: its type, range, missing policy, the words marketing reads, and what training learned of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: Literal["number", "category"]
    range: tuple[FiniteFloat, FiniteFloat] | None = None
    missing: Literal["allowed", "refused"] = "allowed"
    low: str | None = None
    high: str | None = None
    reason: str | None = None
    monotone: Literal["increasing", "decreasing"] | None = None
    categories: tuple[str, ...] = ()
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
        return self


class FeatureContract(BaseModel):
    """The ordered features. `version` guards bundles of another generation of this file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = CONTRACT_VERSION
    features: tuple[Feature, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_and_phrases_are_unique(self) -> FeatureContract:
        phrases = [p for f in self.features for p in (f.low, f.high, f.reason) if p]
        for kind, values in (("feature", self.names), ("phrase", phrases)):
            twice = sorted({v for v in values if values.count(v) > 1})
            if twice:
                raise ValueError(f"{kind} given twice: {', '.join(twice)}")
        return self

    @property
    def names(self) -> list[str]:
        """Feature names in the model's order."""
        return [feature.name for feature in self.features]

    @property
    def feature_types(self) -> list[str]:
        """XGBoost's word for each feature: `c` categorical, `q` quantitative."""
        return ["c" if feature.type == "category" else "q" for feature in self.features]

    @property
    def monotone_constraints(self) -> tuple[int, ...]:
        """XGBoost's sign for each feature: 1 where a higher value may only raise the probability, -1 lower it, 0 either."""
        return tuple({"increasing": 1, "decreasing": -1, None: 0}[feature.monotone] for feature in self.features)

    def check_columns(self, schema: pa.Schema, where: str) -> None:
        """Compare names and types with a mart's schema.

        Raises: ContractError naming each absent column and each of the wrong type.
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
                f"{where} does not keep the feature contract: {'; '.join(problems)}. "
                "Restore the column in dbt, or train a model on the new contract."
            )

    def encode(self, rows: pa.Table | pa.RecordBatch, where: str) -> Matrix:
        """Turn rows into the model's matrix, float32 of shape (rows, features); missing is NaN, a category its index.

        Raises: ContractError for a null where none may be, or for too many values out of range.
        """
        matrix = np.empty((rows.num_rows, len(self.features)), dtype=np.float32)
        for position, feature in enumerate(self.features):
            given = values = rows.column(feature.name)
            if feature.type == "category":
                known = pa.array(feature.categories, pa.string())
                values = pc.index_in(values.cast(pa.string()), value_set=known)
            numbers = values.cast(pa.float32(), safe=False)
            is_array = isinstance(numbers, pa.Array)
            column = numbers.to_numpy(zero_copy_only=False) if is_array else numbers.to_numpy()
            matrix[:, position] = self._checked(feature, column, given, where)
        return matrix

    def _checked(self, feature: Feature, column: Matrix, given: Any, where: str) -> Matrix:
        # A category that training never saw is missing to the model, but it was given.
        absent = 0
        if feature.missing == "refused":
            absent = given.null_count if feature.type == "category" else int(np.isnan(column).sum())
        if absent:
            raise ContractError(
                f"{where}: {feature.name} is null in {absent} of {len(column)} rows; the contract refuses that."
            )
        if feature.range is None or not len(column):
            return column
        lowest, highest = feature.range
        if np.nanmin(column, initial=lowest) >= lowest and np.nanmax(column, initial=highest) <= highest:
            return column
        outside = (column < lowest) | (column > highest)
        count = int(outside.sum())
        if count > max(MAX_OUT_OF_RANGE_ROWS, MAX_OUT_OF_RANGE_RATIO * len(column)):
            raise ContractError(
                f"{where}: {feature.name} is outside {lowest:g} to {highest:g} in {count} of {len(column)} rows. "
                "Has its unit changed?"
            )
        return np.where(outside, np.float32(np.nan), column)

    def learn(self, rows: pa.Table) -> FeatureContract:
        """Complete the contract with what training rows hold: sorted category lists, and medians."""
        learned = []
        for feature in self.features:
            values = rows.column(feature.name)
            if feature.type == "category":
                names = sorted(v for v in pc.unique(values.cast(pa.string())).to_pylist() if v is not None)
                learned.append(feature.model_copy(update={"categories": tuple(names)}))
            else:
                known = values.cast(pa.float64(), safe=False).drop_null().to_numpy()
                known = known[~np.isnan(known)]
                median = float(np.median(known)) if len(known) else None
                learned.append(feature.model_copy(update={"median": median}))
        return FeatureContract(features=tuple(learned))


def load_contract(path: Path) -> FeatureContract:
    """Read the declared contract.

    Raises: ContractError with the file and what is wrong in it.
    """
    return read_yaml(path, FeatureContract, "feature contract")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
