"""Features for training: they equal those at scoring time, and nothing later changes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.dbt_replay import FEATURES, Replay, recorded
from tests.support.environment import HISTORY_UNTIL, at, small_app
from tests.support.event_streams import (
    EXAMPLES,
    GAP,
    OUTCOMES,
    START,
    Event,
    Stream,
    few_or_many,
    minutes,
    one_go_of,
    rows_of,
    steps,
    steps_of,
    streams,
)
from warehouse.tables import USERS

MODELS = FEATURES | {"fct_exit_features_logged"}

pytestmark = pytest.mark.timeout(0 if EXAMPLES else 900)
Rows = dict[str, dict[str, Any]]  # by exit


def rows_by_exit(replay: Replay, table: str) -> Rows:
    """Return the rows of all current exits, without the loading times of their events."""
    sql = f"select * exclude (last_loaded_at) from marts.{table}"
    exits = "select exit_id from marts.fct_unfinished_exits where not is_dissolved"
    rows = replay.warehouse.query(f"{sql} where exit_id in ({exits})").to_pylist()
    return {row["exit_id"]: row for row in rows}


@dataclass(frozen=True)
class Profile:
    """A version of a user's profile. `updated` is in minutes after the start; it arrives before step number `step`."""

    user: int
    updated: int
    age: int
    step: int


profiles = st.builds(
    Profile, user=st.integers(0, 2), updated=st.integers(0, 12_000), age=st.integers(18, 99), step=st.integers(1, 5)
)


def append_profiles(replay: Replay, versions: Sequence[Profile]) -> None:
    rows = [
        {
            "user_id": f"u-{version.user}",
            "created_at": START,
            "updated_at": minutes(version.updated),
            "marketing_consent": True,
            "age": version.age,
        }
        for version in versions
    ]
    replay.warehouse.append(USERS, pa.Table.from_pylist(rows, schema=USERS.schema))


def test_what_happens_after_an_exit_changes_no_feature_of_it() -> None:
    met: Counter[str] = Counter()

    @few_or_many(60)
    @given(
        stream=streams(), versions=st.lists(profiles, min_size=4, max_size=10, unique_by=lambda p: (p.user, p.updated))
    )
    def law(stream: Stream, versions: list[Profile]) -> None:
        replay = Replay(rows_of(stream.events), MODELS)
        before: Rows = {}
        known_until = START
        for number, (selector, window) in enumerate(steps_of(stream)):
            news = [version for version in versions if version.step == number]
            append_profiles(replay, news)
            replay.build(selector, window)
            after = rows_by_exit(replay, "fct_exit_features")
            for exit_id, row in before.items():
                arrived = arrivals(stream, row["user_id"], known_until, window.until_at)
                changed = [minutes(p.updated) for p in news if f"u-{p.user}" == row["user_id"]]
                if any(moment <= row["exited_at"] for moment in [*(minutes(e.occurred) for e in arrived), *changed]):
                    continue
                met["exits"] += 1
                met["exits with later events"] += bool(arrived)
                met["exits with later profiles"] += bool(changed)
                if exit_id in after:
                    assert after[exit_id] == row
                else:
                    met["exits moved or explained away"] += 1
                    assert any(ends_an_exit(e, row["exited_at"]) for e in arrived)
            before, known_until = after, max(known_until, window.until_at)
        replay.close()

    recorded()
    law()

    assert min(met.values()) > 5
    assert len(met) == 4


def arrivals(stream: Stream, user_id: str, from_at: datetime, until_at: datetime) -> list[Event]:
    """Return the user's events that the tables took in between two times, and outcomes however late."""
    told = {*stream.taken_in, *((e, min(e.loaded)) for e in stream.events if e.name in OUTCOMES)}
    return [e for e, loaded in told if e.user_id == user_id and from_at <= minutes(loaded) < until_at]


def ends_an_exit(news: Event, exited_at: datetime) -> bool:
    """Return whether the user went on before the gap had passed, or had an outcome by then."""
    after = minutes(news.occurred) - exited_at
    return after < timedelta(minutes=GAP) or (news.name in OUTCOMES and after <= timedelta(minutes=GAP))


# Three users with three events each, of which one arrives after their exit was scored.
LATE = Stream(
    tuple(
        event
        for user in range(3)
        for event in (
            Event(user, "field_saved", 0, (1,)),
            Event(user, "help_opened", 10, (200,)),
            Event(user, "field_saved", 20, (21,)),
        )
    ),
    2,
    ((2, 100), (100, 300)),
)


def test_features_as_scored_differ_from_those_known_later_only_where_an_event_came_late() -> None:
    met: Counter[str] = Counter()

    @few_or_many(80)
    @example(stream=LATE)
    @given(stream=streams())
    def law(stream: Stream) -> None:
        replay = Replay(rows_of(stream.events), MODELS)
        logged_at: dict[str, datetime] = {}
        for selector, window in steps_of(stream):
            replay.build(selector, window)
            for exit_id in rows_by_exit(replay, "fct_exit_features_logged"):
                logged_at.setdefault(exit_id, window.until_at)
        rebuilt = Replay(rows_of(stream.events), MODELS)
        for step in one_go_of(stream):
            rebuilt.build(*step)
        scored, known = rows_by_exit(replay, "fct_exit_features_logged"), rows_by_exit(rebuilt, "fct_exit_features")

        assert scored.keys() == known.keys()
        late = {
            exit_id
            for exit_id, row in known.items()
            for e, loaded in stream.taken_in
            if e.user_id == row["user_id"]
            and minutes(loaded) >= logged_at[exit_id]
            and minutes(e.occurred) <= row["exited_at"]
        }
        differing = {exit_id for exit_id, row in known.items() if row != scored[exit_id]}
        assert differing <= late
        met.update({"exits": len(known), "differing": len(differing)})
        replay.close()
        rebuilt.close()

    recorded()
    law()

    assert min(met.values()) > 5


def test_of_an_apps_exits_only_those_with_late_events_were_scored_on_other_features_than_known_today() -> None:
    app = small_app(3, count_users=1_500)
    cuts = [HISTORY_UNTIL, *(at(hours) for hours in range(1, 25)), at(240)]
    hourly, rebuilt = Replay(app.events, MODELS), Replay(app.events, MODELS)
    logged_at: dict[str, datetime] = {}
    for replay, way in ((hourly, steps(cuts[0], list(pairwise(cuts)))), (rebuilt, steps(cuts[0], [], cuts[-1]))):
        replay.warehouse.append(USERS, app.users)
        for selector, window in way:
            replay.build(selector, window)
            if replay is hourly:
                new = replay.rows("select exit_id from marts.fct_exit_features_logged")
                logged_at = {exit_id: window.until_at for (exit_id,) in new} | logged_at
    scored, known = rows_by_exit(hourly, "fct_exit_features_logged"), rows_by_exit(rebuilt, "fct_exit_features")
    differing = {exit_id for exit_id, row in known.items() if row != scored[exit_id]}
    late = {
        exit_id
        for exit_id in differing
        if rebuilt.warehouse.query(
            "select 1 from intermediate.int_events__deduplicated"
            " where user_id = $user and occurred_at <= $exited and loaded_at >= $logged limit 1",
            {
                "user": known[exit_id]["user_id"],
                "exited": known[exit_id]["exited_at"].replace(tzinfo=None),
                "logged": logged_at[exit_id].replace(tzinfo=None),
            },
        ).num_rows
    }
    assert scored.keys() == known.keys()
    assert late == differing
    assert 0 < len(differing) < len(known) / 100
