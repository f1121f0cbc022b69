"""Profile versions with any times and arrivals: no withdrawal is missed, and windows give the same features as one build."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from jobs.transform.dbt import Window
from tests.support.dbt_replay import FEATURES, Replay, recorded
from tests.support.event_streams import Stream, few_or_many, minutes, one_go_of, rows_of, steps_of, streams
from warehouse.tables import DECISIONS, RUNS, USERS

DAY = 24 * 60
USERS_DECIDED = 2
HISTORY = 10 * DAY  # minutes after the start of a stream; no time is earlier than the start
CUTS = [HISTORY, HISTORY + 60, HISTORY + 120, HISTORY + 120 + 2 * DAY, HISTORY + 10 * DAY]


@dataclass(frozen=True)
class Version:
    """A version of a profile: its `updated_at` and its arrival, in minutes after the start."""

    user: int
    updated: int
    loaded: int
    consent: bool
    is_erased: bool = False

    @property
    def written(self) -> int:
        """The time of writing; the arrival if the clock was ahead by more than a day."""
        return self.loaded if self.updated > self.loaded + DAY else self.updated

    def row(self, *, has_arrival: bool = True) -> dict[str, Any]:
        at = minutes(self.updated)
        return {
            "user_id": f"u-{self.user}",
            "created_at": minutes(0),
            "updated_at": at,
            "marketing_consent": self.consent,
            "age": self.updated % 90,
            "erased_at": at if self.is_erased else None,
            "loaded_at": minutes(self.loaded) if has_arrival else None,
        }


def versions(last: int) -> st.SearchStrategy[list[Version]]:
    """Versions that are in time, late by up to more than the allowed lateness, dated ahead, or of the same time as others."""
    moments = st.one_of(
        st.integers(0, last),
        st.sampled_from([HISTORY - 6 * DAY, HISTORY - 5 * DAY, HISTORY - 3 * DAY, HISTORY, HISTORY + 60, HISTORY + 90]),
    )
    late = st.sampled_from([4 * DAY, 5 * DAY, 6 * DAY, 8 * DAY])
    delays = st.one_of(late, st.sampled_from([0, 1, 59, 60, 61, 2 * DAY, -30, -400 * DAY]))
    return st.lists(
        st.builds(
            lambda user, updated, delay, consent, erased: Version(
                user, updated if delay >= 0 else updated - delay, updated + max(delay, 0), consent, erased
            ),
            st.integers(0, USERS_DECIDED - 1),
            moments,
            delays,
            st.booleans(),
            st.sampled_from([False, False, False, False, True]),
        ),
        min_size=2,
        max_size=10,
    )


def table_of(rows: Sequence[Version], *, has_arrival: bool = True) -> pa.Table:
    return pa.Table.from_pylist([row.row(has_arrival=has_arrival) for row in rows], schema=USERS.schema)


def newest(known: Sequence[Version], user: int, until: int) -> Version | None:
    """Return the version written last, or of several such versions the one that permits least, in plain Python."""
    of_user = [one for one in known if one.user == user and one.written < until]
    return max(of_user, key=lambda one: (one.written, one.is_erased, not one.consent), default=None)


def decide(replay: Replay, users: int, at: int) -> None:
    """Record a run that granted every user a voucher, valid until after the test."""
    run = {"epoch": 1, "run_id": "r1", "kind": "hourly", "window_from": minutes(HISTORY), "window_until": minutes(at)}
    run |= {"count_exits": users, "count_scored": users, "count_skipped": 0, "count_eligible": users}
    run |= {"committed_at": minutes(at)}
    replay.warehouse.append(RUNS, pa.Table.from_pylist([run], schema=RUNS.schema))
    decisions = [
        {"exit_id": f"x-{user}", "user_id": f"u-{user}", "exited_at": minutes(at - 40), "run_id": "r1", "epoch": 1}
        | {"decided_at": minutes(at), "disposition": "scored", "is_eligible": True, "eligibility_reason": "granted"}
        | {"churn_probability": 0.7, "churn_risk_band": "high", "experiment_arm": "treatment"}
        | {"valid_until": minutes(at) + timedelta(days=60)}
        for user in range(users)
    ]
    replay.warehouse.append(DECISIONS, pa.Table.from_pylist(decisions, schema=DECISIONS.schema))


def audience_window(before: int, until: int) -> Window:
    return Window(minutes(before), minutes(until), minutes(HISTORY), profiles_from=minutes(before))


def test_no_withdrawal_is_missed_whenever_it_arrives_and_the_newest_version_holds() -> None:
    met: Counter[str] = Counter()
    recorded()  # outside of the property, so that a failure here is not reported as an example

    @few_or_many(60)
    @given(rows=versions(HISTORY + 4 * DAY), has_arrival=st.sampled_from([True, True, False]))
    def law(rows: list[Version], has_arrival: bool) -> None:
        replay = Replay(rows_of([]), FEATURES | {"crm_profiles"})
        replay.build("backfill", Window(minutes(0), minutes(HISTORY), minutes(HISTORY)))
        decide(replay, USERS_DECIDED, CUTS[1])
        arrived: list[Version] = []
        for before, until in pairwise(CUTS):
            fresh = [one for one in rows if one not in arrived and one.loaded < until]
            arrived += fresh
            replay.warehouse.append(USERS, table_of(fresh, has_arrival=has_arrival))
            replay.build("audience", audience_window(before, until))
            sql = "select user_id, is_voucher_eligible, voucher_reason, is_erased from marts.crm_profiles order by user_id"
            for (user_id, eligible, reason, is_erased), user in zip(
                replay.rows(sql), range(USERS_DECIDED), strict=True
            ):
                holds = newest(arrived, user, until)
                if not has_arrival:
                    # Without arrivals, neither a clock that was ahead nor consent given again late can be detected.
                    if holds and not holds.consent and all(one.updated == one.written for one in arrived):
                        assert (user_id, eligible, reason) == (f"u-{user}", False, "no_consent")
                    continue
                wanted = "no_profile" if holds is None else "granted" if holds.consent else "no_consent"
                assert (user_id, eligible, reason) == (f"u-{user}", wanted == "granted", wanted)
                assert is_erased == bool(holds and holds.is_erased)
                met[wanted] += 1
                met["late withdrawal"] += bool(holds and not holds.consent and holds.loaded > holds.updated + 3 * DAY)
        replay.close()

    law()
    assert min(met[name] for name in ("granted", "no_profile", "no_consent", "late withdrawal")) > 10


def features_of(replay: Replay) -> Counter[tuple[Any, ...]]:
    """Return the features of all exits, including those of the profile."""
    return Counter(
        replay.rows("""
            select features.* from marts.fct_exit_features as features
            inner join marts.fct_unfinished_exits as exits using (exit_id) where not exits.is_dissolved
        """)
    )


def test_features_are_the_same_hour_by_hour_and_in_one_go_whenever_profiles_arrive() -> None:
    met: Counter[str] = Counter()
    recorded()

    @few_or_many(25)
    @given(stream=streams(), data=st.data())
    def law(stream: Stream, data: st.DataObject) -> None:
        rows = table_of(data.draw(versions(stream.until)))
        built = []
        for steps in (steps_of(stream), one_go_of(stream)):
            replay = Replay(rows_of(stream.events), FEATURES)
            replay.warehouse.append(USERS, rows)
            for step in steps:
                replay.build(*step)
            built.append(features_of(replay))
            met["with a profile"] += bool(
                replay.rows("select 1 from marts.fct_exit_features where age is not null limit 1")
            )
            replay.close()
        assert built[0] == built[1]

    law()
    assert met["with a profile"] > 5
