"""Rules of user behaviour in the synthetic tax-filing app: why users return and finish.

This module holds everything that a model can learn, constants and transition rule, and nothing else. All functions work on
arrays, one element per user, and draw only from the given generator. So `optimal_predictor` can start from
rows of `exits_truth` (it has every field of `People`) and play `what_next` and `play_session` many times.

A user has a hidden propensity z ~ N(0, 1) that no raw table shows, and observable causes: employment, previous-year
filing, referral source, device. Age, income, marital status and country have no effect of their own. The constants
below hold the numbers; the formulas repeat them for the reader.

1. **A session** (`play_session`) has N body events, ln N = ln 13 + .10 z + ln .8 [mobile] + N(0, .6), after
   `app_opened` and `step_opened`. Each is an error with probability
   .045 exp(.45 [contractor] + .25 [mobile] - .25 [previous] - .40 z + e), e ~ N(0, .45) being a user's own clumsiness,
   which hides z; or help (.04, half of it for previous filers); a document (.05); a step looked at again (.10);
   or else a saved field, which adds to the fields-filled ratio

       .028 exp(.12 z + N(0, .35)) x .85 [mobile] x .75 [contractor] x 1.25 [previous] x .85 ^ (errors so far here)

   Seconds between events: ln s = ln 24 - .20 z + p + ln 1.3 [mobile] + N(0, .8), p ~ N(0, .30) being a user's own pace;
   3 % are pauses of 4 to 20 minutes. Bounds: 2 to 70 body events, 24 minutes a gap, 115 minutes a session. A user has
   a favourite device; a quarter of users draw a new device in 40 % of their sessions.
2. **Finished**: the ratio reaches 1, and the session ends with `filing_submitted`.
3. **Gave up**: otherwise the session ends with `filing_deleted`, with the probability
   logistic(-4.2 - .5 z + .25 errors - .8 progress), errors counted in this session, progress being the ratio so far.
4. **Rejected**: otherwise the user exits unfinished; with probability .004 the office closes the filing one to three
   days later (`filing_rejected`, about 1 % of users), whatever the user would have done.
5. **Returns**: otherwise with `return_probability`, the logistic of

       1.9 + 1.1 z + 1.4 progress - .30 min(errors, 6) - .15 min(helps, 4) + .45 [previous]
       + (0 search, -.35 social ad, +.35 friend) + 1.0 exp(-days to the deadline / 21)

   after ln hours = ln 40 - .25 z + N(0, 1.25), kept within .8 to 720. A return 6 hours or more away moves to an hour
   of its day drawn from `HOUR_WEIGHTS`, and on days that `WEEKDAY_WEIGHTS` makes quiet to the next day.
6. **Lost**: otherwise no event follows.

The deadline is `DAYS_FROM_PERIOD_END_TO_DEADLINE` after the period's end.

Measured (20,000 users, 90 days): 3.2 sessions of 14 events per user; 63 % of the users with 42 days to do it finish;
label base rate .40. AUC of XGBoost on session features .79, of `return_probability` alone .81, of XGBoost with z and
`return_probability` as features .83. Whether and when a user returns stays partly random.
"""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

EVENT_NAMES = (
    "app_opened",
    "step_opened",
    "field_saved",
    "document_uploaded",
    "help_opened",
    "error_shown",
    "filing_submitted",
    "filing_deleted",
    "filing_rejected",
)
OPENED, STEP, SAVED, DOCUMENT, HELP, ERROR, SUBMITTED, DELETED, REJECTED = range(9)
STEPS = ("start", "personal", "income", "deductions", "review", "submit")
STEP_STARTS_RATIO = (0.0, 0.02, 0.25, 0.50, 0.80, 0.97)
DEVICES = ("mobile", "desktop", "tablet")
DEVICE_SHARES = (0.45, 0.45, 0.10)
EMPLOYMENTS = ("full_time", "part_time", "unemployed", "contractor")
EMPLOYMENT_SHARES = (0.55, 0.18, 0.09, 0.18)
REFERRALS = ("organic_search", "social_media_ad", "friend_referral")
REFERRAL_SHARES = (0.50, 0.30, 0.20)
PREVIOUS_FILER_SHARE = 0.40
SWITCHER_SHARE, SWITCH_PROBABILITY = 0.25, 0.40
MOBILE, CONTRACTOR = DEVICES.index("mobile"), EMPLOYMENTS.index("contractor")

DAYS_FROM_PERIOD_END_TO_DEADLINE = 14
SECONDS_PER_HOUR, SECONDS_PER_DAY = 3_600, 86_400
MICROSECONDS = 1_000_000

BODY_EVENTS_MEDIAN, BODY_EVENTS_PER_Z, BODY_EVENTS_MOBILE, BODY_EVENTS_SIGMA = 13.0, 0.10, 0.80, 0.60
BODY_EVENTS_MIN, BODY_EVENTS_MAX = 2, 70
ERROR_PROBABILITY, ERROR_PROBABILITY_MAX = 0.045, 0.35
ERROR_PER_CONTRACTOR, ERROR_PER_MOBILE, ERROR_PER_PREVIOUS, ERROR_PER_Z, ERROR_SIGMA = 0.45, 0.25, -0.25, -0.40, 0.45
HELP_PROBABILITY, HELP_PREVIOUS_FACTOR, DOCUMENT_PROBABILITY, LOOK_PROBABILITY = 0.04, 0.5, 0.05, 0.10
FIELD_RATIO, FIELD_PER_Z, FIELD_SIGMA = 0.028, 0.12, 0.35
FIELD_MOBILE, FIELD_CONTRACTOR, FIELD_PREVIOUS, FIELD_PER_ERROR = 0.85, 0.75, 1.25, 0.85
PACE_SECONDS, PACE_PER_Z, PACE_USER_SIGMA, PACE_MOBILE, PACE_SIGMA = 24.0, -0.20, 0.30, 1.30, 0.80
PAUSE_PROBABILITY, PAUSE_SECONDS = 0.03, (240.0, 1_200.0)
GAP_SECONDS = (1.0, 1_440.0)  # 24 minutes: safely inside the 30-minute inactivity gap
SESSION_SECONDS_MAX = 6_900.0  # 115 minutes; the closing event may follow up to 90 s later
OUTCOME_SECONDS = (5.0, 90.0)

DELETE_BASE, DELETE_PER_Z, DELETE_PER_ERROR, DELETE_PER_PROGRESS = -4.2, -0.5, 0.25, -0.8
REJECT_PROBABILITY, REJECT_DAYS = 0.004, (1.0, 3.0)
RETURN_BASE, RETURN_PER_Z, RETURN_PER_PROGRESS = 1.9, 1.1, 1.4
RETURN_PER_ERROR, RETURN_ERRORS_MAX, RETURN_PER_HELP, RETURN_HELPS_MAX = -0.30, 6, -0.15, 4
RETURN_PREVIOUS, RETURN_REFERRALS = 0.45, (0.0, -0.35, 0.35)
RETURN_DEADLINE, RETURN_DEADLINE_DAYS = 1.0, 21.0
DELAY_HOURS, DELAY_PER_Z, DELAY_SIGMA = 40.0, -0.25, 1.25
DELAY_HOURS_MIN, DELAY_HOURS_MAX, DELAY_HOURS_SAME_SITTING = 0.8, 720.0, 6.0  # .8 h = 48 min: always a new session
HOUR_WEIGHTS = (2, 1, 1, 1, 1, 1, 2, 4, 5, 6, 6, 6, 7, 6, 5, 5, 6, 8, 11, 14, 15, 13, 8, 4)  # UTC, evening peak
WEEKDAY_WEIGHTS = (0.90, 0.90, 0.85, 0.80, 0.60, 0.80, 1.00)  # Monday first; Friday is quiet, Sunday is tax day

LOST, RETURNED, CLOSED = range(3)
NEXT_ACTIONS = ("lost", "returned", "rejected")


@dataclass(frozen=True)
class People:
    """Causes of the users' behaviour, one element per user."""

    z: Floats
    is_previous_filer: Bools
    employment: Ints
    referral: Ints
    favourite_device: Ints
    is_switcher: Bools
    pace_style: Floats
    error_style: Floats

    @classmethod
    def draw(cls, rng: np.random.Generator, count_users: int) -> Self:
        """Draw independent users."""
        return cls(
            z=rng.standard_normal(count_users),
            is_previous_filer=rng.random(count_users) < PREVIOUS_FILER_SHARE,
            employment=rng.choice(len(EMPLOYMENTS), count_users, p=EMPLOYMENT_SHARES),
            referral=rng.choice(len(REFERRALS), count_users, p=REFERRAL_SHARES),
            favourite_device=rng.choice(len(DEVICES), count_users, p=DEVICE_SHARES),
            is_switcher=rng.random(count_users) < SWITCHER_SHARE,
            pace_style=PACE_USER_SIGMA * rng.standard_normal(count_users),
            error_style=ERROR_SIGMA * rng.standard_normal(count_users),
        )

    def take(self, index: Ints) -> "People":
        """Return the users at these positions, in this order; a position may repeat."""
        return People(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


@dataclass(frozen=True)
class Sessions:
    """One session per user. Matrices are (user, slot); slots from `count_events` on are empty."""

    device: Ints
    count_events: Ints
    names: Ints
    seconds: Floats  # since the session's start
    steps: Ints
    ratios: Floats  # NaN for an event without one
    progress_ratio: Floats  # at the session's end
    count_errors: Ints
    count_helps: Ints
    is_finished: Bools
    is_deleted: Bools


def logistic(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x))."""
    return np.asarray(1.0 / (1.0 + np.exp(-x)), dtype=np.float64)


def return_probability(
    *,
    z: Floats,
    progress_ratio: Floats,
    count_errors: Ints,
    count_helps: Ints,
    is_previous_filer: Bools,
    referral: Ints,
    days_to_deadline: Floats,
) -> Floats:
    """Return the probability that a user returns at any time after this unfinished exit (rule 5)."""
    return logistic(
        RETURN_BASE
        + RETURN_PER_Z * z
        + RETURN_PER_PROGRESS * progress_ratio
        + RETURN_PER_ERROR * np.minimum(count_errors, RETURN_ERRORS_MAX)
        + RETURN_PER_HELP * np.minimum(count_helps, RETURN_HELPS_MAX)
        + RETURN_PREVIOUS * is_previous_filer
        + np.asarray(RETURN_REFERRALS)[referral]
        + RETURN_DEADLINE * np.exp(-days_to_deadline / RETURN_DEADLINE_DAYS)
    )


def play_session(rng: np.random.Generator, people: People, progress_before: Floats) -> Sessions:
    """Play one session of every given user (rules 1 to 3)."""
    count = people.z.size
    row = np.arange(count)
    switches = people.is_switcher & (rng.random(count) < SWITCH_PROBABILITY)
    device = np.where(switches, rng.integers(len(DEVICES), size=count), people.favourite_device)
    is_mobile, is_contractor = device == MOBILE, people.employment == CONTRACTOR
    is_previous, z = people.is_previous_filer, people.z

    body = BODY_EVENTS_MEDIAN * np.exp(BODY_EVENTS_PER_Z * z + BODY_EVENTS_SIGMA * rng.standard_normal(count))
    body = np.clip(body * np.where(is_mobile, BODY_EVENTS_MOBILE, 1.0), BODY_EVENTS_MIN, BODY_EVENTS_MAX)
    # Two opening slots before the body, and one for an outcome after it.
    shape = (count, int(body.max()) + 3)
    slot = np.arange(shape[1])

    tilt = ERROR_PER_CONTRACTOR * is_contractor + ERROR_PER_MOBILE * is_mobile + ERROR_PER_PREVIOUS * is_previous
    error = ERROR_PROBABILITY * np.exp(tilt + ERROR_PER_Z * z + people.error_style)
    error = np.minimum(error, ERROR_PROBABILITY_MAX)
    help_ = HELP_PROBABILITY * np.where(is_previous, HELP_PREVIOUS_FACTOR, 1.0)
    bounds = np.cumsum([error, help_, np.full(count, DOCUMENT_PROBABILITY), np.full(count, LOOK_PROBABILITY)], axis=0)
    draw = rng.random(shape)
    names = np.select([draw < bound[:, None] for bound in bounds], [ERROR, HELP, DOCUMENT, STEP], SAVED)
    names[:, 0], names[:, 1] = OPENED, STEP

    field = FIELD_RATIO * np.exp(FIELD_PER_Z * z) * np.where(is_mobile, FIELD_MOBILE, 1.0)
    field = field * np.where(is_contractor, FIELD_CONTRACTOR, 1.0) * np.where(is_previous, FIELD_PREVIOUS, 1.0)
    drag = FIELD_PER_ERROR ** np.cumsum(names == ERROR, axis=1)
    gain = np.where(names == SAVED, field[:, None] * drag * np.exp(FIELD_SIGMA * rng.standard_normal(shape)), 0.0)
    # Rounded down to 4 decimals, so that 1 means full; 1e-6 keeps a ratio of the session before from falling by .0001.
    ratios = np.floor(np.minimum(1.0, progress_before[:, None] + np.cumsum(gain, axis=1)) * 1e4 + 1e-6) / 1e4

    pace = PACE_SECONDS * np.exp(PACE_PER_Z * z + people.pace_style) * np.where(is_mobile, PACE_MOBILE, 1.0)
    gaps = pace[:, None] * np.exp(PACE_SIGMA * rng.standard_normal(shape))
    gaps = np.where(rng.random(shape) < PAUSE_PROBABILITY, rng.uniform(*PAUSE_SECONDS, shape), gaps)
    gaps = np.clip(gaps, *GAP_SECONDS)
    gaps[:, 0] = 0.0
    seconds = np.cumsum(gaps, axis=1)

    length = np.minimum(2 + body.astype(np.int64), (seconds < SESSION_SECONDS_MAX).sum(axis=1))
    is_full = (ratios >= 1.0) & (slot < length[:, None])
    is_finished = is_full.any(axis=1)
    length = np.where(is_finished, is_full.argmax(axis=1) + 1, length)
    inside = slot < length[:, None]
    count_errors = ((names == ERROR) & inside).sum(axis=1)
    count_helps = ((names == HELP) & inside).sum(axis=1)
    progress = ratios[row, length - 1]

    delete = DELETE_BASE + DELETE_PER_Z * z + DELETE_PER_ERROR * count_errors + DELETE_PER_PROGRESS * progress
    is_deleted = ~is_finished & (rng.random(count) < logistic(delete))

    steps = np.searchsorted(STEP_STARTS_RATIO, ratios, side="right") - 1
    # The save that completes a step also opens the next one; the app shows that as one event.
    names[:, 2:][(names[:, 2:] == SAVED) & (steps[:, 2:] > steps[:, 1:-1])] = STEP
    ratios = np.where((names == SAVED) | (names == STEP), ratios, np.nan)

    at_end = is_finished | is_deleted
    ended, last = row[at_end], length[at_end]
    names[ended, last] = np.where(is_finished[at_end], SUBMITTED, DELETED)
    seconds[ended, last] = seconds[ended, last - 1] + rng.uniform(*OUTCOME_SECONDS, ended.size)
    steps[ended, last] = steps[ended, last - 1]
    ratios[ended, last] = np.where(is_finished[at_end], 1.0, np.nan)
    count_events = length + at_end
    return Sessions(
        device,
        count_events,
        names,
        seconds,
        steps,
        ratios,
        progress,
        count_errors,
        count_helps,
        is_finished,
        is_deleted,
    )


def at_a_plausible_hour(rng: np.random.Generator, at_us: Ints) -> Ints:
    """Move times (microseconds UTC) to a likely hour of their day, or of the next day if their day is quiet."""
    day = at_us // (SECONDS_PER_DAY * MICROSECONDS)
    # Day 0 of the epoch was a Thursday, which is 3 when Monday is 0.
    day = day + (rng.random(at_us.size) >= np.asarray(WEEKDAY_WEIGHTS)[(day + 3) % 7])
    hour_shares = np.asarray(HOUR_WEIGHTS) / sum(HOUR_WEIGHTS)
    hour = rng.choice(24, at_us.size, p=hour_shares) + rng.random(at_us.size)
    return np.asarray((day * SECONDS_PER_DAY + hour * SECONDS_PER_HOUR) * MICROSECONDS, dtype=np.int64)


def what_next(rng: np.random.Generator, people: People, probability: Floats, exited_at_us: Ints) -> tuple[Ints, Ints]:
    """Draw, for each unfinished exit, the next action (an index of `NEXT_ACTIONS`) and its time (rules 4 to 6).

    The time (microseconds UTC) has no meaning if the action is `LOST`.
    """
    count = people.z.size
    hours = DELAY_HOURS * np.exp(DELAY_PER_Z * people.z + DELAY_SIGMA * rng.standard_normal(count))
    hours = np.clip(hours, DELAY_HOURS_MIN, DELAY_HOURS_MAX)
    hour_us = SECONDS_PER_HOUR * MICROSECONDS
    at_us = exited_at_us + (hours * hour_us).astype(np.int64)
    at_us = np.where(hours < DELAY_HOURS_SAME_SITTING, at_us, at_a_plausible_hour(rng, at_us))
    # Moving to an earlier hour of the day must not move a return before, or into, the session it follows.
    at_us = np.where(at_us < exited_at_us + int(DELAY_HOURS_MIN * hour_us), at_us + 24 * hour_us, at_us)
    action = np.where(rng.random(count) < probability, RETURNED, LOST)
    is_closed = rng.random(count) < REJECT_PROBABILITY
    closed_us = exited_at_us + (rng.uniform(*REJECT_DAYS, count) * 24 * hour_us).astype(np.int64)
    return np.where(is_closed, CLOSED, action), np.where(is_closed, closed_us, at_us)
