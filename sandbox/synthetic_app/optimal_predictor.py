"""Best possible prediction for a synthetic exit: its future is simulated many times from its state at the exit.

It also uses each user's hidden propensity, which no raw table shows, so no model can reach it. It is the lower bound of the Brier
score.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sandbox.synthetic_app import behaviour as truth

Floats = npt.NDArray[np.float64]
_DAY_US = 86_400_000_000
_MAX_ROUNDS = 12  # sessions after the exit; within a label window of 14 days hardly any user has more


def unfinished_probability(exits: pa.Table, label_window_days: int, *, plays: int, seed: int) -> Floats:
    """Return, for rows of `exits_truth`, the share of `plays` futures in which the user does not finish within the window.

    Futures in which the office closes the filing are left out, because such exits have no label.
    """
    rng = np.random.default_rng(seed)
    unfinished = np.zeros(exits.num_rows)
    labelled = np.zeros(exits.num_rows)
    for _ in range(plays):
        is_finished, is_closed = _play(rng, exits, label_window_days * _DAY_US)
        labelled += ~is_closed
        unfinished += ~is_finished & ~is_closed
    return unfinished / np.maximum(labelled, 1)


def _play(
    rng: np.random.Generator, exits: pa.Table, window_us: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    people = truth.People(**{field.name: exits.column(field.name).to_numpy() for field in fields(truth.People)})
    count = exits.num_rows
    exited_us = exits.column("exited_at").cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    until_us = exited_us + window_us
    deadline_us = exited_us + (exits.column("days_to_deadline").to_numpy() * _DAY_US).astype(np.int64)
    progress = exits.column("progress_ratio").to_numpy().copy()
    is_finished, is_closed = np.zeros(count, bool), np.zeros(count, bool)
    alive = np.arange(count)
    action, next_us = truth.what_next(rng, people, exits.column("return_probability").to_numpy(), exited_us)
    for _ in range(_MAX_ROUNDS):
        is_in_time = next_us <= until_us[alive]
        is_closed[alive[(action == truth.CLOSED) & is_in_time]] = True
        is_back = (action == truth.RETURNED) & is_in_time
        alive, started_us = alive[is_back], next_us[is_back]
        if not alive.size:
            break
        who = people.take(alive)
        session = truth.play_session(rng, who, progress[alive])
        progress[alive] = session.progress_ratio
        last = np.maximum(session.count_events - 1, 0)
        ended_us = started_us + (session.seconds[np.arange(alive.size), last] * 1e6).astype(np.int64)
        is_finished[alive[session.is_finished & (ended_us <= until_us[alive])]] = True
        left = np.flatnonzero(~(session.is_finished | session.is_deleted))
        alive, who = alive[left], who.take(left)
        probability = truth.return_probability(
            z=who.z,
            progress_ratio=session.progress_ratio[left],
            count_errors=session.count_errors[left],
            count_helps=session.count_helps[left],
            is_previous_filer=who.is_previous_filer,
            referral=who.referral,
            days_to_deadline=(deadline_us[alive] - ended_us[left]) / _DAY_US,
        )
        action, next_us = truth.what_next(rng, who, probability, ended_us[left])
    return is_finished, is_closed
