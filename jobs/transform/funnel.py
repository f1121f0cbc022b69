"""What counts as finished, and how are events cut into sessions?"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from core.config_file import read_yaml
from core.names import unfit


def _fit(name: str) -> str:
    if why := unfit(name):
        raise ValueError(why)
    return name


# Names become SQL literals in dbt, escaped by its macro text_literal.
EventName = Annotated[str, AfterValidator(_fit)]
Kind = Literal["navigation", "input", "upload", "help", "error"]


class Funnel(BaseModel):
    """`config/funnel.yml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    completion_events: list[EventName] = Field(min_length=1)
    abandonment_events: list[EventName] = []
    closing_events: list[EventName] = []
    session_gap_minutes: Annotated[int, Field(ge=1, le=1440)] = 30
    # The longest session; a longer one is cut, and its user set aside. 168: a week, which is what one run may re-read for it.
    max_session_hours: Annotated[int, Field(ge=1, le=168)] = 24
    max_lateness_days: Annotated[int, Field(ge=1, le=30)] = 3
    label_window_days: Annotated[int, Field(ge=1, le=365)] = 14
    feature_history_days: Annotated[int, Field(ge=1, le=730)] = 90
    # How far back a model learns from: two seasons of a yearly filing.
    training_history_days: Annotated[int, Field(ge=30, le=3650)] = 730
    pause_seconds: Annotated[int, Field(ge=1, le=86_400)] = 120
    steps: list[EventName] = []
    event_kinds: dict[Kind, list[EventName]] = {}

    @model_validator(mode="after")
    def _each_name_once(self) -> Funnel:
        """An event has one outcome and one kind, and a step one place in the order."""
        outcomes = {name: getattr(self, name) for name in ("completion_events", "abandonment_events", "closing_events")}
        _refuse_twice("given as more than one outcome", {(name,): names for name, names in outcomes.items()})
        _refuse_twice("given more than once", {("steps",): self.steps})
        kinds: dict[tuple[str, ...], list[str]] = {
            ("event_kinds", kind): names for kind, names in self.event_kinds.items()
        }
        _refuse_twice("given more than one kind, or one twice", kinds)
        return self

    @model_validator(mode="after")
    def _a_session_holds_a_gap(self) -> Funnel:
        if self.max_session_hours * 60 < self.session_gap_minutes:
            raise ValueError("max_session_hours must be at least session_gap_minutes")
        return self

    @model_validator(mode="after")
    def _some_exits_are_old_enough_to_learn_from(self) -> Funnel:
        """An exit has a label once its label window is over: a shorter history holds none that has."""
        if self.training_history_days <= self.label_window_days:
            context = {"days": self.label_window_days, "at": ("training_history_days",)}
            text = "must be more than label_window_days, which is {days}: else no exit is old enough to have a label"
            raise PydanticCustomError("history_too_short", text, context)
        return self

    @property
    def days_in_reach(self) -> int:
        """How many days before its window a run may read and write: dbt/macros/time.sql has the same sum."""
        minutes = self.max_session_hours * 60 + 2 * self.session_gap_minutes
        return self.max_lateness_days + ceil(minutes / 1440)

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


def _refuse_twice(what: str, lists: Mapping[tuple[str, ...], list[str]]) -> None:
    """Raises: PydanticCustomError that names what is in the lists twice, and the place of the first repetition."""
    seen: set[str] = set()
    places: dict[str, tuple[str | int, ...]] = {}
    for place, names in lists.items():
        for index, name in enumerate(names):
            if name in seen:
                places.setdefault(name, (*place, index))
            seen.add(name)
    if places:
        context = {"names": ", ".join(sorted(places)), "at": next(iter(places.values()))}
        raise PydanticCustomError("given_twice", f"{what}: {{names}}. Keep one of each.", context)


def load_funnel(path: Path) -> Funnel:
    """Read the funnel.

    Raises: ContractError with the file and what is wrong in it.
    """
    return read_yaml(path, Funnel, "funnel")
