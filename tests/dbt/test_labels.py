"""Training examples: labels that can no longer change, and the arm and treatment of committed decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.dbt_replay import FEATURES, Replay, recorded
from tests.support.event_streams import (
    EXAMPLES,
    LATENESS,
    OUTCOMES,
    START,
    Event,
    Stream,
    few_or_many,
    minutes,
    rows_of,
    steps,
    steps_of,
)
from warehouse.tables import DECISIONS, RUNS

MODELS = FEATURES | {"fct_exit_features_logged", "fct_training_examples"}
DAY = 24 * 60  # minutes
LABEL_WINDOW = 14 * DAY  # as config/funnel.yml has it

pytestmark = pytest.mark.timeout(0 if EXAMPLES else 900)


@st.composite
def outcomes_around_the_label_window(draw: st.DrawFn) -> Stream:
    """Users who leave once or twice, with outcomes near the end of their label windows, and run windows cut at those times."""
    events, cuts = [], {60, 40 * DAY}
    for user in range(draw(st.integers(1, 2))):
        left = draw(st.integers(0, 2 * DAY))
        matured = left + LABEL_WINDOW + LATENESS
        cuts.add(matured + draw(st.sampled_from([-1, 0, 0, 1])))
        events.append(Event(user, "app_opened", left, (left,)))
        if draw(st.booleans()):
            events.append(Event(user, "field_saved", left + DAY, (left + DAY,)))
        for name in draw(st.lists(st.sampled_from([OUTCOMES[0], *OUTCOMES]), max_size=2)):
            after = draw(st.sampled_from([0, 29, 30, 31, 3 * DAY, LABEL_WINDOW - 1, LABEL_WINDOW, LABEL_WINDOW + 1]))
            occurred = left + after
            loaded = draw(
                st.sampled_from([occurred, occurred + LATENESS, occurred + LATENESS + 1, matured + 2, matured + DAY])
            )
            events.append(Event(user, name, occurred, (max(occurred, loaded),)))
            cuts.add(max(occurred, loaded) + draw(st.integers(0, 1)))
    return Stream(tuple(events), 60, tuple(pairwise(sorted(c for c in cuts if c >= 60))))


Examples = dict[str, tuple[str, datetime, int]]  # by exit: the user, exited_at, the label


def examples_in(replay: Replay) -> Examples:
    rows = replay.rows("select exit_id, user_id, exited_at, label from marts.fct_training_examples")
    return {exit_id: (user_id, exited_at.replace(tzinfo=UTC), label) for exit_id, user_id, exited_at, label in rows}


def outcomes_of(stream: Stream, user_id: str, names: Sequence[str] = OUTCOMES) -> list[Event]:
    return [e for e in stream.events if e.user_id == user_id and e.name in names]


def test_a_label_is_used_when_nothing_in_time_can_change_it_any_more() -> None:
    met: Counter[str] = Counter()

    @few_or_many(40)
    @given(stream=outcomes_around_the_label_window())
    def law(stream: Stream) -> None:
        replay, before, seen_until = Replay(rows_of(stream.events), MODELS), Examples(), START
        for selector, window in steps_of(stream):
            replay.build(selector, window)
            replay.build("examples", window)
            after = examples_in(replay)
            for user_id, exited_at, label in after.values():
                assert exited_at + timedelta(minutes=LABEL_WINDOW + LATENESS) < window.until_at
                known = [
                    e for e in outcomes_of(stream, user_id, OUTCOMES[:1]) if minutes(e.loaded[0]) < window.until_at
                ]
                after_exit = [minutes(e.occurred) - exited_at for e in known]
                assert (label == 0) == any(timedelta() < a <= timedelta(minutes=LABEL_WINDOW) for a in after_exit)
                met[f"label {label}"] += 1
            for exit_id, row in before.items():
                # An event loaded at the last allowed time counts as too late here: see the next test.
                late = [e for e in outcomes_of(stream, row[0]) if seen_until <= minutes(e.loaded[0]) < window.until_at]
                late = [e for e in late if e.loaded[0] > e.occurred + LATENESS]
                assert late or after.get(exit_id) == row
                met["met again"] += 1
                met["flipped by an outcome too late"] += after.get(exit_id) != row
            before, seen_until = after, window.until_at
        replay.close()

    recorded()
    law()

    assert {case: count for case, count in met.items() if count < 3} == {}
    assert len(met) == 4


def test_a_completion_loaded_at_the_last_moment_in_time_flips_no_label() -> None:
    last = LABEL_WINDOW + LATENESS
    replay = Replay(rows_of([Event(0, "app_opened", 0, (0,)), Event(0, OUTCOMES[0], LABEL_WINDOW, (last,))]), MODELS)
    labels = []
    for step in steps(minutes(60), [(minutes(60), minutes(last)), (minutes(last), minutes(last + 1))]):
        replay.build(*step)
        replay.build("examples", step[1])
        labels += [label for _, _, label in examples_in(replay).values()]

    assert set(labels) == {0}


# Users leave at START and again a day later. Two runs compete for the same epoch: the first committed, the second lost.
COMMITTED, LOST = "run-committed", "run-lost"
SECOND = START + timedelta(days=1)


def granted(decided_at: datetime, **validity: float) -> dict[str, Any]:
    valid_until = decided_at + timedelta(**validity or {"days": 7})
    return {"decided_at": decided_at, "is_eligible": True, "experiment_arm": "treatment", "valid_until": valid_until}


def examples_with(decisions: dict[str, list[tuple[int, str, dict[str, Any]]]]) -> dict[str, list[tuple[bool, str]]]:
    """Return for each user whether the example of each exit is marked as treated, and its arm.

    `decisions` maps a user to tuples: the exit (0 or 1; another number is an exit of another time), the run, and the values that
    differ from a refusal.
    """
    numbers = {user_id: number for number, user_id in enumerate(decisions)}
    events = [Event(n, "app_opened", minute, (minute,)) for n in numbers.values() for minute in (0, DAY)]
    replay = Replay(rows_of(events), MODELS)
    backfill = steps(START + timedelta(days=20), [])[0]
    replay.build(*backfill)
    exits = replay.rows("select user_id, exit_id from marts.fct_unfinished_exits order by user_id, exited_at")
    of_user = {name: [exit_id for user_id, exit_id in exits if user_id == f"u-{n}"] for name, n in numbers.items()}
    rows = [
        {
            "exit_id": dict(enumerate(of_user[name])).get(number, f"another of {name}"),
            "user_id": f"u-{numbers[name]}",
            "exited_at": START,
            "run_id": run_id,
            "epoch": 2,
            "decided_at": START + timedelta(hours=1),
            "disposition": "scored",
            "is_eligible": False,
            **values,
        }
        for name, mine in decisions.items()
        for number, run_id, values in mine
    ]
    replay.warehouse.append(DECISIONS, pa.Table.from_pylist(rows, schema=DECISIONS.schema))
    counts = dict.fromkeys(("count_exits", "count_scored", "count_skipped", "count_eligible"), 0)
    times = dict.fromkeys(("window_from", "window_until", "committed_at"), START)
    run = {"epoch": 2, "run_id": COMMITTED, "kind": "hourly", **counts, **times}
    replay.warehouse.append(RUNS, pa.Table.from_pylist([run], schema=RUNS.schema))
    replay.build("examples", backfill[1])
    found = replay.rows(
        "select user_id, is_treated, experiment_arm from marts.fct_training_examples order by exited_at"
    )
    return {name: [row[1:] for row in found if row[0] == f"u-{n}"] for name, n in numbers.items()}


def test_an_example_is_marked_by_the_committed_decision_and_no_other() -> None:
    now, holdout = START + timedelta(hours=1), {"experiment_arm": "holdout"}
    superseded = {"disposition": "skipped", "skip_reason": "superseded"}
    found = examples_with(
        {
            "no decision": [],
            "granted": [(0, COMMITTED, granted(now))],
            "granted by the run that lost": [(0, LOST, granted(now))],
            "held out, though granted by the run that lost": [(0, LOST, granted(now)), (0, COMMITTED, holdout)],
            "granted, though held out by the run that lost": [(0, LOST, holdout), (0, COMMITTED, granted(now))],
            "superseded by an exit with a grant": [(0, COMMITTED, superseded), (1, COMMITTED, granted(SECOND))],
            "held out after a voucher expired": [(0, COMMITTED, granted(now, hours=1)), (1, COMMITTED, holdout)],
        }
    )

    assert found == {
        "no decision": [(False, "none"), (False, "none")],
        "granted": [(True, "treatment"), (True, "none")],
        "granted by the run that lost": [(False, "none"), (False, "none")],
        "held out, though granted by the run that lost": [(False, "holdout"), (False, "none")],
        "granted, though held out by the run that lost": [(True, "treatment"), (True, "none")],
        "superseded by an exit with a grant": [(True, "none"), (True, "treatment")],
        "held out after a voucher expired": [(True, "treatment"), (False, "holdout")],
    }


def test_an_exit_is_treated_exactly_when_a_committed_vouchers_validity_overlaps_its_label_window() -> None:
    moment = timedelta(microseconds=1)
    starts = [timedelta(days=n) + by for n in (-8, -7, -1, 0, 7, 14, 15) for by in (-moment, timedelta(), moment)]
    cases = {str(case): case for case in product(starts, (COMMITTED, LOST), (True, False))}
    found = examples_with(
        {
            name: [(2, run_id, granted(START + start) | {"is_eligible": is_eligible})]
            for name, (start, run_id, is_eligible) in cases.items()
        }
    )

    def overlaps(start: timedelta, exited: timedelta) -> bool:
        return start < exited + timedelta(days=14) and start + timedelta(days=7) > exited

    assert {name: [is_treated for is_treated, _ in rows] for name, rows in found.items()} == {
        name: [run_id == COMMITTED and is_eligible and overlaps(start, timedelta(days=n)) for n in (0, 1)]
        for name, (start, run_id, is_eligible) in cases.items()
    }
