"""Calibration map of a model's raw probability, if training found one that helps.

Platt: a line through the log odds (Platt 1999). Isotonic: steps between points, linear in between (Zadrozny and Elkan, KDD 2002).
Both are monotone, so the ranking of users never reverses; some may become equal.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

Probabilities = TypeVar("Probabilities", npt.NDArray[np.float32], npt.NDArray[np.float64])
Ratio = Annotated[float, Field(ge=0, le=1)]
# The float32 values next to 0 and 1; closer to them, the log odds are infinite.
_EDGE = 1e-7


class Calibration(BaseModel):
    """The map that ships with a bundle as `calibration.json`. `none` leaves every probability unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["none", "platt", "isotonic"] = "none"
    slope: FiniteFloat = 1.0
    intercept: FiniteFloat = 0.0
    raw: tuple[Ratio, ...] = ()
    true: tuple[Ratio, ...] = ()

    @model_validator(mode="after")
    def _only_rises(self) -> Self:
        if self.kind == "platt" and self.slope <= 0:
            raise ValueError("a slope of 0 or less would reverse the ranking")
        if len(self.raw) != len(self.true) or (self.kind == "isotonic" and len(self.raw) < 2):
            raise ValueError("raw and true must have the same length, and at least two points")
        if any(list(points) != sorted(points) for points in (self.raw, self.true)):
            raise ValueError("raw and true must rise")
        return self

    def apply(self, probability: Probabilities) -> Probabilities:
        """Return the calibrated probabilities, of the same shape and type."""
        if self.kind == "none":
            return probability
        wide = probability.astype(np.float64)
        if self.kind == "isotonic":
            return np.interp(wide, self.raw, self.true).astype(probability.dtype)
        return (1 / (1 + np.exp(-self.slope * log_odds(wide) - self.intercept))).astype(probability.dtype)


def log_odds(probability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the logarithm of the odds, finite also for 0 and 1."""
    edged = np.clip(probability, _EDGE, 1 - _EDGE)
    odds: npt.NDArray[np.float64] = np.log(edged / (1 - edged))
    return odds
