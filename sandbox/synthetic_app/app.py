"""Raw tables of a synthetic tax-filing app whose users leave for known reasons.

`generate` is a pure function of its arguments. It plays the transition rule of `sandbox.synthetic_app.behaviour` in rounds:
round k is the k-th session of every user who is still active. Then it delivers the events as a real pipeline does:

- `loaded_at` is up to 5 minutes after `occurred_at` for 90 % of events, up to an hour for 9 %, and up to 26 hours for 1 %.
  For .02 % it is 4 to 6 days later, beyond any look-back.
- 1 % of events are delivered twice: same id and content, a later `loaded_at`.
- Rows are in random order.
- Rows that occurred or were loaded at or after the period's end are left out.

Users arrive with the weekly and daily rhythm of `sandbox.synthetic_app.behaviour`, more of them towards the deadline. A day's
weight is exp(-days to the deadline / `ARRIVAL_RAMP_DAYS`).
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sandbox.synthetic_app import behaviour as truth
from sandbox.synthetic_app import raw_tables as tables
from sandbox.synthetic_app.behaviour import MICROSECONDS, SECONDS_PER_DAY, Bools, Ints, People, Sessions
from sandbox.synthetic_app.raw_tables import Columns

ARRIVAL_RAMP_DAYS = 60.0
SESSIONS_MAX = 60  # ends the loop for any constants; of 100,000 users none had more than 12
LATENESS_SHARES = (0.8998, 0.09, 0.01, 0.0002)
LATENESS_SECONDS = ((1, 300), (300, 3_600), (3_600, 26 * 3_600), (4 * 86_400, 6 * 86_400))
DUPLICATE_SHARE, DUPLICATE_SECONDS = 0.01, (1.0, 1_800.0)


@dataclass(frozen=True)
class SyntheticApp:
    """The raw tables of one synthetic app, and the true causes behind them."""

    events: pa.Table
    users: pa.Table
    redemptions: pa.Table
    exits_truth: pa.Table

    def write(self, folder: Path) -> None:
        """Write events, users, redemptions and truth as Parquet files into the folder, creating it if it is absent."""
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(self.events, folder / "events.parquet")
        pq.write_table(self.users, folder / "users.parquet")
        pq.write_table(self.redemptions, folder / "redemptions.parquet")
        pq.write_table(self.exits_truth, folder / "truth.parquet")


def generate(*, seed: int, count_users: int, starts_on: date, count_days: int) -> SyntheticApp:
    """Return the app of one period: `count_users` arrivals from `starts_on`, for `count_days` days (UTC).

    The same arguments give the same tables. Users whose events were all loaded too late keep their row in `users`.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    starts_at = datetime(starts_on.year, starts_on.month, starts_on.day, tzinfo=UTC)
    start_us = int(starts_at.timestamp()) * MICROSECONDS
    end_us = int((starts_at + timedelta(days=count_days)).timestamp()) * MICROSECONDS
    people = People.draw(rng, count_users)
    arrived_us = _arrivals(rng, count_users, start_us, end_us)
    played, exits = _play(rng, people, arrived_us, end_us)
    events, is_kept = _deliver(rng, played, end_us)

    last_us = arrived_us.copy()
    np.maximum.at(last_us, played["user"], np.where(is_kept, played["at_us"], 0))
    ids = tables.ids("u-", np.arange(count_users), 7)
    # An exit is in the raw tables if its last event is.
    is_exit_kept = is_kept[played["is_exit"]]
    exits = {name: column[is_exit_kept] for name, column in exits.items()}
    return SyntheticApp(
        events=tables.events_table(events, ids),
        users=tables.users_table(rng, people, ids, arrived_us=arrived_us, last_us=last_us, end_us=end_us),
        redemptions=tables.redemptions_table(rng, arrived_us, end_us, ids),
        exits_truth=tables.exits_table(exits, people, ids),
    )


def _arrivals(rng: np.random.Generator, count_users: int, start_us: int, end_us: int) -> Ints:
    """Draw the times of the first sessions, in ascending order."""
    day_us = SECONDS_PER_DAY * MICROSECONDS
    days = np.arange(start_us // day_us, end_us // day_us)
    to_deadline = days[-1] + 1 - days + truth.DAYS_FROM_PERIOD_END_TO_DEADLINE
    weights = np.exp(-to_deadline / ARRIVAL_RAMP_DAYS) * np.asarray(truth.WEEKDAY_WEIGHTS)[(days + 3) % 7]
    hours = np.asarray(truth.HOUR_WEIGHTS) / sum(truth.HOUR_WEIGHTS)
    at = rng.choice(days, count_users, p=weights / weights.sum()) * 24.0
    at += rng.choice(24, count_users, p=hours) + rng.random(count_users)
    return np.sort((at * 3_600 * MICROSECONDS).astype(np.int64))


def _play(rng: np.random.Generator, people: People, arrived_us: Ints, end_us: int) -> tuple[Columns, Columns]:
    """Play rounds until no user is active; return all events and all unfinished exits before the end.

    `events["is_exit"]` marks the last event of each exit, in the order of the exits.
    """
    deadline_us = end_us + truth.DAYS_FROM_PERIOD_END_TO_DEADLINE * SECONDS_PER_DAY * MICROSECONDS
    user, start_us = np.arange(arrived_us.size), arrived_us
    progress = np.zeros(arrived_us.size)
    events: list[Columns] = []
    exits: list[Columns] = []
    for session_number in range(1, SESSIONS_MAX + 1):
        who = people.take(user)
        session = truth.play_session(rng, who, progress[user])
        progress[user] = session.progress_ratio
        is_exit = ~(session.is_finished | session.is_deleted)
        rows = _session_events(session, user, start_us, is_exit)
        events.append(rows)

        left = np.flatnonzero(is_exit)
        leavers, exited_us = who.take(left), rows["at_us"][rows["is_exit"]]
        days_to_deadline = (deadline_us - exited_us) / (SECONDS_PER_DAY * MICROSECONDS)
        probability = truth.return_probability(
            z=leavers.z,
            progress_ratio=session.progress_ratio[left],
            count_errors=session.count_errors[left],
            count_helps=session.count_helps[left],
            is_previous_filer=leavers.is_previous_filer,
            referral=leavers.referral,
            days_to_deadline=days_to_deadline,
        )
        action, next_us = truth.what_next(rng, leavers, probability, exited_us)
        exits.append(
            {
                "user": user[left],
                "exited_us": exited_us,
                "session_number": np.full(left.size, session_number),
                "progress_ratio": session.progress_ratio[left],
                "count_errors": session.count_errors[left],
                "count_helps": session.count_helps[left],
                "days_to_deadline": days_to_deadline,
                "return_probability": probability,
                "action": action,
                "next_us": next_us,
            }
        )
        events.append(_rejections(user[left][action == truth.CLOSED], next_us[action == truth.CLOSED]))
        is_back = (action == truth.RETURNED) & (next_us < end_us)
        user, start_us = user[left][is_back], next_us[is_back]
        if not user.size:
            break
    return _concatenate(events), _concatenate(exits)


def _session_events(session: Sessions, user: Ints, start_us: Ints, is_exit: Bools) -> Columns:
    slot = np.arange(session.names.shape[1])
    row, column = np.nonzero(slot < session.count_events[:, None])
    return {
        "user": user[row],
        "name": session.names[row, column],
        "at_us": start_us[row] + (session.seconds[row, column] * MICROSECONDS).astype(np.int64),
        "device": session.device[row],
        "step": session.steps[row, column],
        "ratio": session.ratios[row, column],
        "is_exit": is_exit[row] & (column == session.count_events[row] - 1),
    }


def _rejections(user: Ints, at_us: Ints) -> Columns:
    nothing = np.full(user.size, -1)
    return {
        "user": user,
        "name": np.full(user.size, truth.REJECTED),
        "at_us": at_us,
        "device": nothing,
        "step": nothing,
        "ratio": np.full(user.size, np.nan),
        "is_exit": np.zeros(user.size, dtype=bool),
    }


def _concatenate(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _deliver(rng: np.random.Generator, played: Columns, end_us: int) -> tuple[Columns, Bools]:
    """Return the delivered rows in random order, and which of the played events are among them."""
    count = played["user"].size
    low, high = np.asarray(LATENESS_SECONDS, dtype=np.float64)[rng.choice(4, count, p=LATENESS_SHARES)].T
    loaded_us = played["at_us"] + ((low + (high - low) * rng.random(count)) * MICROSECONDS).astype(np.int64)
    again = np.flatnonzero(rng.random(count) < DUPLICATE_SHARE)
    again_us = loaded_us[again] + (rng.uniform(*DUPLICATE_SECONDS, again.size) * MICROSECONDS).astype(np.int64)

    # Loading follows occurrence, so one comparison cuts both times.
    is_kept = loaded_us < end_us
    source = np.concatenate([np.flatnonzero(is_kept), again[again_us < end_us]])
    loaded_us = np.concatenate([loaded_us[is_kept], again_us[again_us < end_us]])
    order = rng.permutation(source.size)
    number = rng.permutation(count)  # ids reveal nothing about the order of events
    delivered = {name: column[source[order]] for name, column in played.items()}
    return {**delivered, "number": number[source[order]], "loaded_us": loaded_us[order]}, is_kept
