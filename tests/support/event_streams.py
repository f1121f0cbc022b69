"""Hypothesis strategies for streams of events and for run windows over them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, groupby, pairwise

import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from core.clock import UNIX_EPOCH
from jobs.transform.dbt import Window
from warehouse.tables import APP_EVENTS

# A law with 200 examples gets as many as `make increments-test` requests in the long form; others get a proportional number.
USUAL = 200
EXAMPLES = int(os.environ.get("INCREMENTS_EXAMPLES", "0"))
OUTCOMES = ["filing_submitted", "filing_deleted", "filing_rejected"]
LATENESS, GAP = 3 * 24 * 60, 30  # minutes, as config/funnel.yml has them
LONGEST = timedelta(days=1)  # max_session_hours; a longer session is cut at day boundaries
Steps = Sequence[tuple[str, Window]]  # which selector to build over which window

START = datetime(2026, 3, 1, 20, tzinfo=UTC)


@dataclass(frozen=True)
class Event:
    """An event, with times in minutes after the start: when it happened, and when each copy was loaded.

    `number` is the id if the app gives one id to several events; otherwise each event has its own. `visible` is when the
    warehouse shows the first copy, if that is later than `loaded`.
    """

    user: int
    name: str
    occurred: int
    loaded: tuple[int, ...]
    number: int | None = None
    visible: int = 0

    @property
    def user_id(self) -> str:
        return f"u-{self.user}"

    @property
    def identity(self) -> object:
        """Equal for copies of one event."""
        if self.number is None:
            return id(self)
        return self.user, self.number, self.name, minutes(self.occurred).date()


@dataclass(frozen=True)
class Stream:
    """Events, the end of the backfill, and the windows built after it. After a crash, also the first attempts."""

    events: tuple[Event, ...]
    history: int
    windows: tuple[tuple[int, int], ...]
    nights: frozenset[int] = frozenset()  # the windows after which a nightly searches for rows that became visible late

    @property
    def until(self) -> int:
        return self.windows[-1][1]

    @property
    def taken_in(self) -> list[tuple[Event, int]]:
        """The events that count, each with the time of its first copy; too late events do not count."""
        copies = [(event, loaded) for event in self.events for loaded in event.loaded if loaded < self.until]
        in_time = [(e, n) for e, n in copies if n < self.history or n <= e.occurred + LATENESS]
        first: dict[object, tuple[Event, int]] = {}
        for event, loaded in sorted(in_time, key=lambda copy: (copy[1], copy[0].occurred)):
            first.setdefault(event.identity, (event, loaded))
        return [*first.values()]


def minutes(count: int) -> datetime:
    return START + timedelta(minutes=count)


def rows_of(events: Sequence[Event], visible: tuple[int, int] | None = None) -> pa.Table:
    """Return the events as the app's ingestion would have stored them, in random order.

    Either all, or those that become visible after the first minute of `visible` and no later than the second.
    """
    after, until = visible or (-1, max([0, *(event.visible for event in events)]))
    rows = [
        {
            "event_id": f"e-{number}" if event.number is None else f"shared-{event.number}",
            "user_id": event.user_id,
            "event_name": event.name,
            "occurred_at": minutes(event.occurred),
            "loaded_at": minutes(loaded),
            "step": ["start", "income", None][number % 3],
            "device_type": ["mobile", "desktop", None][number % 3],
            "fields_filled_ratio": (number % 11) / 10 if event.name == "field_saved" else None,
        }
        for number, event in enumerate(events)
        for copy, loaded in enumerate(event.loaded)
        if after < (0 if copy else event.visible) <= until
    ]
    random.Random(len(rows)).shuffle(rows)  # noqa: S311 - any order will do, as long as it is the same one
    return pa.Table.from_pylist(rows, schema=APP_EVENTS.schema)


def sessions_of(stream: Stream) -> list[tuple[str, datetime, datetime, int, bool, bool]]:
    """Return the expected sessions, in plain Python: user, first and last event, count, whether too long, whether cut."""
    streaks: list[tuple[str, list[datetime]]] = []
    for user_id, at in sorted((event.user_id, minutes(event.occurred)) for event, _ in stream.taken_in):
        if streaks and streaks[-1][0] == user_id and at - streaks[-1][1][-1] < timedelta(minutes=GAP):
            streaks[-1][1].append(at)
        else:
            streaks.append((user_id, [at]))
    sessions = []
    for user_id, times in streaks:
        is_too_long = times[-1] - times[0] > LONGEST
        days = [[*part] for _, part in groupby(times, datetime.date)]
        parts = days if is_too_long else [times]
        sessions += [(user_id, part[0], part[-1], len(part), is_too_long, part[-1] < times[-1]) for part in parts]
    return sessions


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Draw journeys with gaps near the limit, late by minutes, hours and days, with windows cut at critical times."""
    gap = st.one_of(
        st.integers(12, 29), st.sampled_from([0, 1, 29, 30, 31, 59, 60, 61]), st.sampled_from([240, 1440, 4321, 8000])
    )
    soon, hours = st.integers(0, 5), st.integers(10, 26 * 60)
    late = st.one_of(soon, soon, hours, st.sampled_from([0, 4319, 4320, 4321, 6000]))
    copies = st.sampled_from([None, None, None, None, 0, 5, 420, 4000])
    name = st.sampled_from([*["app_opened", "field_saved", "help_opened"] * 6, *OUTCOMES])
    # A single event, or three, of which the late one in the middle joins the others.
    one = st.tuples(st.tuples(gap, late))
    three = st.tuples(st.tuples(gap, soon), st.tuples(st.integers(15, 29), hours), st.tuples(st.integers(15, 29), soon))
    # Hours and days without a gap: sessions of about the maximum length, over midnights, and endless ones. One of their
    # events comes late and joins its neighbours.
    long = st.tuples(
        st.integers(15, 29), st.sampled_from([1430, 1440, 1450, 2000, *[9000] * 6]), st.integers(0, 99), late
    )
    ids = st.sampled_from([None, None, None, None, 1, 2])
    hidden = st.sampled_from([None, 100, 1500, 6000] if draw(st.booleans()) else [None])
    has_long = draw(st.booleans())
    events = []
    for user in range(draw(st.integers(1, 3))):
        occurred = draw(st.integers(0, 600))
        for after, delay in chain(*draw(st.lists(st.one_of(one, one, three), min_size=1, max_size=6))):
            occurred += after
            loaded = occurred + delay
            copy, hide = draw(copies), draw(hidden)
            times = (loaded,) if copy is None else (loaded, loaded + copy)
            events.append(Event(user, draw(name), occurred, times, draw(ids), 0 if hide is None else loaded + hide))
        if has_long and not user:
            step, length, place, delay = draw(long)
            hole = place * (length // step) // 100
            start = draw(st.integers(0, max(occurred, 1)))
            for number, at in enumerate(range(start, start + length + 1, step)):
                events.append(Event(user, "step_opened", at, (at + (delay if number == hole else 1),)))

    # Window boundaries: where something is loaded or closes, and anywhere.
    moments = sorted(
        {*(e.loaded[0] for e in events), *(e.loaded[-1] for e in events), *(e.occurred + GAP for e in events)}
    )
    somewhere = st.one_of(st.sampled_from(moments), st.sampled_from(moments), st.integers(0, moments[-1]))
    end = draw(
        st.sampled_from([moments[-1] + 1, moments[-1] + 1, moments[-1] + 10_000, moments[len(moments) // 2] + 1])
    )
    begin = draw(st.sampled_from([0, moments[len(moments) // 3]]))  # events before it belong to history
    cuts = sorted({c for c in draw(st.lists(somewhere, min_size=2, max_size=5)) if begin <= c < end} | {end})
    windows = []
    for from_at, until_at in pairwise(cuts):
        # A run that crashed before its commit built the same window, or its first part.
        crashed = [until for until in draw(st.lists(somewhere, max_size=1)) if from_at < until <= until_at]
        windows += [
            (from_at, until) for until in [*crashed, *draw(st.sampled_from([[], [], [], [until_at]])), until_at]
        ]
    windows = windows or [(cuts[0], end)]
    shown = tuple(replace(event, visible=min(event.visible, end)) for event in events)
    nights = draw(st.frozensets(st.integers(0, len(windows) - 1), max_size=2))
    return Stream(shown, cuts[0], tuple(windows), nights | {len(windows) - 1})


def few_or_many(few: int) -> settings:
    """Test a law on this many examples, always the same ones; in the long form on many more, and different ones each time.

    A failing example is printed with the code that reproduces it.
    """
    return settings(
        max_examples=few * max(EXAMPLES, USUAL) // USUAL,
        derandomize=not EXAMPLES,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def steps(
    history_until: datetime, windows: Sequence[tuple[datetime, datetime]], until: datetime | None = None
) -> Steps:
    """Return the backfill, by default up to the end of history, and the windows after it."""
    backfill = Window(UNIX_EPOCH, until or history_until, history_until)
    return [("backfill", backfill), *(("features", Window(*window, history_until)) for window in windows)]


def steps_of(stream: Stream) -> Steps:
    return steps(minutes(stream.history), [(minutes(a), minutes(b)) for a, b in stream.windows])


def arriving(stream: Stream) -> Iterator[tuple[str, Window, pa.Table, bool]]:
    """Yield the backfill and each window, with the rows that became visible by its end, and whether a nightly follows."""
    shown = -1
    for number, (selector, window) in enumerate(steps_of(stream), start=-1):
        until = max(shown, stream.windows[number][1] if number >= 0 else stream.history)
        yield selector, window, rows_of(stream.events, (shown, until)), number in stream.nights
        shown = until


def one_go_of(stream: Stream) -> Steps:
    return steps(minutes(stream.history), [], minutes(stream.until))
