"""What counts as finished, and how are events cut into sessions?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from warehouse.yaml_files import read_yaml

# Names become SQL literals in dbt: anything but a quote or a backslash may stand in one.
EventName = Annotated[str, Field(pattern=r"^[^'\"\\\n]{1,200}$")]
Kind = Literal["navigation", "input", "upload", "help", "error"]


class Funnel(BaseModel):
    """`config/funnel.yml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    completion_events: list[EventName] = Field(min_length=1)
    abandonment_events: list[EventName] = []
    closing_events: list[EventName] = []
    session_gap_minutes: Annotated[int, Field(ge=1, le=1440)] = 30
    max_lateness_days: Annotated[int, Field(ge=1, le=30)] = 3
    label_window_days: Annotated[int, Field(ge=1, le=365)] = 14
    feature_history_days: Annotated[int, Field(ge=1, le=730)] = 90
    # How far back a model learns from: two seasons of a yearly filing.
    training_history_days: Annotated[int, Field(ge=30, le=3650)] = 730
    pause_seconds: Annotated[int, Field(ge=1)] = 120
    steps: list[EventName] = []
    event_kinds: dict[Kind, list[EventName]] = {}

    @model_validator(mode="after")
    def _one_outcome_an_event(self) -> Funnel:
        outcomes = [*self.completion_events, *self.abandonment_events, *self.closing_events]
        twice = sorted({name for name in outcomes if outcomes.count(name) > 1})
        if twice:
            raise ValueError(f"given as more than one outcome: {', '.join(twice)}")
        return self

    @property
    def outcomes(self) -> dict[str, str]:
        """How a journey ends with each of the events that end one, by the event's name, in the words of int_outcomes."""
        return {
            **dict.fromkeys(self.completion_events, "finished"),
            **dict.fromkeys(self.abandonment_events, "gave_up"),
            **dict.fromkeys(self.closing_events, "closed"),
        }

    def as_vars(self) -> dict[str, Any]:
        """The dbt vars of the same names."""
        return self.model_dump()


def load_funnel(path: Path) -> Funnel:
    """Read the funnel.

    Raises: ContractError with the file and what is wrong in it.
    """
    return read_yaml(path, Funnel, "funnel")
