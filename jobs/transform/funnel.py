"""Reader of config/funnel.yml: outcome events, session rules, steps and event kinds."""

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


# dbt writes names as SQL literals, escaped by its macro text_literal.
EventName = Annotated[str, AfterValidator(_fit)]
Kind = Literal["navigation", "input", "upload", "help", "error"]


class Funnel(BaseModel):
    """The contents of `config/funnel.yml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    completion_events: list[EventName] = Field(min_length=1)
    abandonment_events: list[EventName] = []
    closing_events: list[EventName] = []
    session_gap_minutes: Annotated[int, Field(ge=1, le=1440)] = 30
    # The longest session; a longer one is cut, and its user is set aside. 168 hours: a run may re-read one week for it.
    max_session_hours: Annotated[int, Field(ge=1, le=168)] = 24
    max_lateness_days: Annotated[int, Field(ge=1, le=30)] = 3
    label_window_days: Annotated[int, Field(ge=1, le=365)] = 14
    feature_history_days: Annotated[int, Field(ge=1, le=730)] = 90
    # How far back training examples go. The default covers two seasons of a yearly filing.
    training_history_days: Annotated[int, Field(ge=30, le=3650)] = 730
    pause_seconds: Annotated[int, Field(ge=1, le=86_400)] = 120
    steps: list[EventName] = []
    event_kinds: dict[Kind, list[EventName]] = {}

    @model_validator(mode="after")
    def _each_name_once(self) -> Funnel:
        """Check that an event has one outcome and one kind, and that a step has one place in the order."""
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
        """Check that the history is longer than the label window, because an exit has a label only after that window."""
        if self.training_history_days <= self.label_window_days:
            context = {"days": self.label_window_days, "at": ("training_history_days",)}
            text = "must be more than label_window_days, which is {days}, because younger exits have no label yet"
            raise PydanticCustomError("history_too_short", text, context)
        return self

    @property
    def days_in_reach(self) -> int:
        """How many days before its window a run may read and write. dbt/macros/time.sql computes the same number."""
        minutes = self.max_session_hours * 60 + 2 * self.session_gap_minutes
        return self.max_lateness_days + ceil(minutes / 1440)

    @property
    def outcomes(self) -> dict[str, str]:
        """The outcome of each event that ends a journey, by event name, with the values that int_outcomes has."""
        return {
            **dict.fromkeys(self.completion_events, "finished"),
            **dict.fromkeys(self.abandonment_events, "gave_up"),
            **dict.fromkeys(self.closing_events, "closed"),
        }

    def as_vars(self) -> dict[str, Any]:
        """Return the dbt vars of the same names."""
        return self.model_dump()


def _refuse_twice(what: str, lists: Mapping[tuple[str, ...], list[str]]) -> None:
    """Raises: PydanticCustomError that lists the duplicate names, and the place of the first duplicate."""
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

    Raises: ContractError with the file and its mistakes.
    """
    return read_yaml(path, Funnel, "funnel")
