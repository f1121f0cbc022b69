"""Verdict on a challenger: every number and every check, in the form that is stored with the challenger."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Metric = Literal["brier", "log_loss"]
# Names for people.
METRICS: dict[Metric, str] = {"brier": "Brier score", "log_loss": "log loss"}


class Scores(BaseModel):
    """Quality of one model on the compared exits. For Brier score, log loss and calibration error (ECE), less is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    auc: float
    brier: float
    log_loss: float
    calibration_error: float


class Check(BaseModel):
    """One condition of a promotion: the measured value, its bound if it has one, and a sentence for people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    is_passed: bool
    says: str
    value: float | None = None
    bound: float | None = None


class Verdict(BaseModel):
    """Result of a comparison; times UTC. `is_better` is true if and only if every check passed.

    The gain is how much lower the challenger's metric is than the champion's; `gain_low` and `gain_high` are its interval at the
    confidence. Numbers are None where nothing could be measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    champion: str
    challenger: str
    is_better: bool
    says: str
    metric: Metric
    confidence: float
    resamples: int
    seed: int
    count_examples: int = 0
    count_users: int = 0
    first_exited_at: datetime | None = None
    last_exited_at: datetime | None = None
    champion_scores: Scores | None = None
    challenger_scores: Scores | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    checks: tuple[Check, ...]

    def as_dict(self) -> dict[str, Any]:
        """The verdict as one JSON object."""
        return self.model_dump(mode="json")
