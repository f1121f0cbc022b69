"""funnel.yml must match the built tables: a changed key is refused by name, and accepted when it is changed back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from core.errors import ContractError
from jobs.context import JobContext
from jobs.doctor.run import check_history
from jobs.hourly.run import hourly
from jobs.models.dataset import examples
from jobs.transform.funnel import Funnel, load_funnel
from jobs.transform.shape import changed, refuse_changed, shape_of, written
from jobs.upkeep.audit import audit
from jobs.upkeep.nightly import nightly
from tests.support.environment import CONFIG, World, at

FUNNEL = load_funnel(CONFIG / "funnel.yml")


def other(**changes: Any) -> Funnel:
    return FUNNEL.model_copy(update=changes)


CHANGES: dict[str, tuple[Funnel, list[str]]] = {
    "nothing": (FUNNEL, []),
    "the gap": (other(session_gap_minutes=240), ["session_gap_minutes was 30 and is 240"]),
    "the longest session": (other(max_session_hours=12), ["max_session_hours was 24 and is 12"]),
    "the lateness": (other(max_lateness_days=5), ["max_lateness_days was 3 and is 5"]),
    "pauses": (other(pause_seconds=60), ["pause_seconds was 120 and is 60"]),
    "how far features look back": (other(feature_history_days=30), ["feature_history_days was 90 and is 30"]),
    "what finishes": (
        other(completion_events=["filing_submitted", "filed"]),
        ['completion_events was ["filing_submitted"] and is ["filed", "filing_submitted"]'],
    ),
    "what gives up": (other(abandonment_events=[]), ['abandonment_events was ["filing_deleted"] and is []']),
    "what closes": (other(closing_events=[]), ['closing_events was ["filing_rejected"] and is []']),
    "the order of steps": (
        other(steps=["personal", "start"]),
        ['steps was ["start", "personal", "income", "deductions", "review", "submit"] and is ["personal", "start"]'],
    ),
    "a kind": (
        other(event_kinds={**FUNNEL.event_kinds, "help": ["help_opened", "chat_opened"]}),
        ['event_kinds.help was ["help_opened"] and is ["chat_opened", "help_opened"]'],
    ),
    "a kind less": (
        other(event_kinds={kind: names for kind, names in FUNNEL.event_kinds.items() if kind != "error"}),
        ['event_kinds.error was ["error_shown"] and is []'],
    ),
    "two keys": (
        other(session_gap_minutes=60, pause_seconds=60),
        ["pause_seconds was 120 and is 60", "session_gap_minutes was 30 and is 60"],
    ),
    "the label window shapes only examples": (other(label_window_days=7), []),
    "so does the training history": (other(training_history_days=365), []),
    "the order of kinds means nothing": (
        other(event_kinds={kind: names[::-1] for kind, names in reversed(FUNNEL.event_kinds.items())}), [],
    ),
    "a kind without events is none": (other(event_kinds={**FUNNEL.event_kinds}), []),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_is_named_with_both_values(case: str) -> None:
    funnel, expected = CHANGES[case]
    assert changed(written(FUNNEL), funnel) == expected


def test_every_key_shapes_the_tables_but_two() -> None:
    assert set(Funnel.model_fields) - set(shape_of(FUNNEL)) == {"label_window_days", "training_history_days"}


def test_a_warehouse_of_before_is_accepted_and_a_key_that_came_later_is_not_compared() -> None:
    assert changed(None, other(session_gap_minutes=240)) == []
    older = {key: value for key, value in shape_of(FUNNEL).items() if key != "pause_seconds"}
    assert changed(json.dumps(older), other(pause_seconds=60)) == []


def test_the_error_says_what_to_do() -> None:
    with pytest.raises(ContractError, match=r"session_gap_minutes was 30 and is 240.* Change it back") as error:
        refuse_changed(written(FUNNEL), other(session_gap_minutes=240))
    assert error.value.exit_code == 2


BUILDING: dict[str, Callable[[JobContext], Any]] = {
    "hourly": lambda context: hourly(context, at(1)),
    "a dry run": lambda context: hourly(context, at(1), dry_run=True),
    "nightly": nightly,
    "audit": lambda context: audit(context, 1),
    "examples": examples,
}


def test_nothing_is_built_with_another_gap_and_the_old_one_goes_on(world: World) -> None:
    sessions = world.query("select * from intermediate.int_sessions order by all")
    for name, command in BUILDING.items():
        with world.context(now=lambda: at(1)) as context, pytest.raises(ContractError, match="session_gap_minutes"):
            command(replace(context, funnel=other(session_gap_minutes=240)))
        assert world.query("select * from intermediate.int_sessions order by all") == sessions, name

    with world.context() as context:
        found = check_history(context.warehouse, None, at(0), 0, other(session_gap_minutes=240))
        assert [(one.check, one.state) for one in found if one.state != "ok"] == [("funnel", "failed")]
        assert {one.state for one in check_history(context.warehouse, None, at(0), 0, context.funnel)} == {"ok"}

    assert world.run(1).epoch == 1
    kept = [row["funnel"] for row in world.query("select funnel from ops.runs order by epoch")]
    assert [json.loads(shape)["session_gap_minutes"] for shape in kept] == [30, 30]


def test_a_warehouse_made_before_keeps_its_shape_from_the_next_hour_on(world: World) -> None:
    world.query("update ops.runs set funnel = null")
    world.run(1)
    with (
        world.context(now=lambda: at(2)) as context,
        pytest.raises(ContractError, match="pause_seconds was 120 and is 60"),
    ):
        hourly(replace(context, funnel=other(pause_seconds=60)), at(2))
