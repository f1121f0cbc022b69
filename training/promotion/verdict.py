"""Verdict on a challenger: every number and every check, in a form that is kept with the challenger."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Metric = Literal["brier", "log_loss"]
# What people call it.
METRICS: dict[Metric, str] = {"brier": "Brier score", "log_loss": "log loss"}


class Scores(BaseModel):
    """How good one model was on the judged exits. Brier score, log loss and calibration error (ECE): less is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    auc: float
    brier: float
    log_loss: float
    calibration_error: float


class Check(BaseModel):
    """One condition of a promotion: what was found, its bound where it has one, and a sentence for a person."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    is_passed: bool
    says: str
    value: float | None = None
    bound: float | None = None


class Verdict(BaseModel):
    """What a challenge found; times UTC. `is_better` when every check has passed, and only then.

    The gain is how much less the challenger's metric is than the champion's; `gain_low` and `gain_high` hold it at the
    confidence. Numbers are None where there was nothing to measure them on.
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
        """One machine-readable object."""
        return self.model_dump(mode="json")
