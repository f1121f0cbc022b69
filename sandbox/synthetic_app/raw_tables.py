"""Converts the synthetic app's arrays to the raw tables that ingestion would write.

Schemas are those of the raw layer. Codes become words, microseconds become UTC timestamps, NaN and -1 become null.
Of `users`, about 3 % have a second version row that withdraws marketing consent, and .2 % one that erases them after
their last event.
"""

from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sandbox.synthetic_app import behaviour as truth
from sandbox.synthetic_app.behaviour import MICROSECONDS, SECONDS_PER_DAY, Bools, Floats, Ints, People

Columns = dict[str, np.ndarray]

PROFILE_LOAD_SECONDS = 15
REGISTERED_SECONDS_BEFORE = (20.0, 900.0)
CONSENT_SHARE, WITHDRAWN_SHARE, ERASED_SHARE, ERASED_DAYS = 0.80, 0.0375, 0.0025, (0.1, 5.0)
REDEEMED_SHARE, REDEMPTION_LOAD_SECONDS = 0.04, (1.0, 600.0)
MARITAL_STATUSES, MARITAL_SHARES = ("single", "married", "divorced"), (0.45, 0.43, 0.12)
COUNTRIES, COUNTRY_SHARES = ("DE", "AT", "NL", "FR"), (0.70, 0.12, 0.10, 0.08)
INCOME_EUR_MEDIANS, INCOME_SIGMA = (44_000.0, 21_000.0, 9_000.0, 48_000.0), 0.45  # by employment type
AGE_NULL_SHARE, INCOME_NULL_SHARE, COUNTRY_NULL_SHARE = 0.03, 0.06, 0.02

AT = pa.timestamp("us", tz="UTC")
EVENTS = pa.schema(
    {
        "event_id": pa.string(),
        "user_id": pa.string(),
        "event_name": pa.string(),
        "occurred_at": AT,
        "loaded_at": AT,
        "device_type": pa.string(),
        "step": pa.string(),
        "fields_filled_ratio": pa.float64(),
        "properties": pa.string(),
    }
)
USERS = pa.schema(
    {
        "user_id": pa.string(),
        "created_at": AT,
        "updated_at": AT,
        "age": pa.int64(),
        "income": pa.float64(),
        "employment_type": pa.string(),
        "marital_status": pa.string(),
        "previous_year_filing": pa.bool_(),
        "referral_source": pa.string(),
        "country": pa.string(),
        "marketing_consent": pa.bool_(),
        "erased_at": AT,
        "loaded_at": AT,
    }
)
REDEMPTIONS = pa.schema(
    {
        "redemption_id": pa.string(),
        "user_id": pa.string(),
        "campaign": pa.string(),
        "redeemed_at": AT,
        "loaded_at": AT,
    }
)
EXITS_TRUTH = pa.schema(
    {
        "user_id": pa.string(),
        "exited_at": AT,
        "session_number": pa.int64(),
        "progress_ratio": pa.float64(),
        "count_errors": pa.int64(),
        "count_helps": pa.int64(),
        "days_to_deadline": pa.float64(),
        "return_probability": pa.float64(),
        "next_action": pa.string(),
        "next_at": AT,
        "z": pa.float64(),
        "is_previous_filer": pa.bool_(),
        "employment": pa.int64(),
        "referral": pa.int64(),
        "favourite_device": pa.int64(),
        "is_switcher": pa.bool_(),
        "pace_style": pa.float64(),
        "error_style": pa.float64(),
    }
)
# JSON by event, in the order of truth.EVENT_NAMES.
PROPERTIES = (*[None] * 3, '{"kind":"payslip"}', '{"topic":"tax_class"}', '{"code":"E_FORMAT"}', *[None] * 3)


def events_table(events: Columns, user_ids: pa.Array) -> pa.Table:
    """Return `app_events`, one row per delivery, in the order given."""
    return pa.table(
        {
            "event_id": ids("e-", events["number"], 9),
            "user_id": user_ids.take(pa.array(events["user"])),
            "event_name": _words(truth.EVENT_NAMES, events["name"]),
            "occurred_at": _at(events["at_us"]),
            "loaded_at": _at(events["loaded_us"]),
            "device_type": _words(truth.DEVICES, events["device"]),
            "step": _words(truth.STEPS, events["step"]),
            "fields_filled_ratio": _nullable(events["ratio"], np.isnan(events["ratio"])),
            "properties": _words(PROPERTIES, events["name"]),
        },
        schema=EVENTS,
    )


def users_table(
    rng: np.random.Generator, people: People, user_ids: pa.Array, *, arrived_us: Ints, last_us: Ints, end_us: int
) -> pa.Table:
    """Return `users`, one row per version: the user's own statements, registered just before the first session."""
    count = arrived_us.size
    created_us = arrived_us - (rng.uniform(*REGISTERED_SECONDS_BEFORE, count) * MICROSECONDS).astype(np.int64)
    age = np.clip(rng.normal(39.0, 12.0, count), 18, 85).astype(np.int64)
    income = np.asarray(INCOME_EUR_MEDIANS)[people.employment] * np.exp(INCOME_SIGMA * rng.standard_normal(count))
    country = rng.choice(len(COUNTRIES), count, p=COUNTRY_SHARES)
    first = pa.table(
        {
            "user_id": user_ids,
            "created_at": _at(created_us),
            "updated_at": _at(created_us),
            "age": _nullable(age, rng.random(count) < AGE_NULL_SHARE),
            "income": _nullable(np.round(income, -2), rng.random(count) < INCOME_NULL_SHARE),
            "employment_type": _words(truth.EMPLOYMENTS, people.employment),
            "marital_status": _words(MARITAL_STATUSES, rng.choice(3, count, p=MARITAL_SHARES)),
            "previous_year_filing": pa.array(people.is_previous_filer),
            "referral_source": _words(truth.REFERRALS, people.referral),
            "country": _words(COUNTRIES, np.where(rng.random(count) < COUNTRY_NULL_SHARE, -1, country)),
            "marketing_consent": pa.array(consent := rng.random(count) < CONSENT_SHARE),
            "erased_at": pa.nulls(count, AT),
            "loaded_at": _at(created_us + PROFILE_LOAD_SECONDS * MICROSECONDS),
        },
        schema=USERS,
    )
    erased_us = last_us + (rng.uniform(*ERASED_DAYS, count) * SECONDS_PER_DAY * MICROSECONDS).astype(np.int64)
    is_erased = (rng.random(count) < ERASED_SHARE) & (erased_us < end_us)
    is_withdrawn = consent & (rng.random(count) < WITHDRAWN_SHARE) & ~is_erased
    withdrawn_us = arrived_us + (rng.random(count) * (end_us - arrived_us)).astype(np.int64)
    changed = np.flatnonzero(is_erased | is_withdrawn)
    changed_us = np.where(is_erased, erased_us, withdrawn_us)[changed]
    second = {
        **dict(zip(USERS.names, first.take(pa.array(changed)).columns, strict=True)),
        "updated_at": _at(changed_us),
        "marketing_consent": pa.array(np.zeros(changed.size, dtype=bool)),
        "erased_at": pc.if_else(pa.array(is_erased[changed]), _at(changed_us), pa.scalar(None, AT)),
        "loaded_at": _at(np.minimum(changed_us + PROFILE_LOAD_SECONDS * MICROSECONDS, end_us)),
    }
    return pa.concat_tables([first, pa.table(second, schema=USERS)])


def redemptions_table(rng: np.random.Generator, arrived_us: Ints, end_us: int, user_ids: pa.Array) -> pa.Table:
    """Return `voucher_redemptions`: a few users at random moments, independent of their behaviour."""
    user = np.flatnonzero(rng.random(arrived_us.size) < REDEEMED_SHARE)
    redeemed_us = arrived_us[user] + (rng.random(user.size) * (end_us - arrived_us[user])).astype(np.int64)
    loaded_us = redeemed_us + (rng.uniform(*REDEMPTION_LOAD_SECONDS, user.size) * MICROSECONDS).astype(np.int64)
    is_kept = loaded_us < end_us
    return pa.table(
        {
            "redemption_id": ids("r-", np.flatnonzero(is_kept), 7),
            "user_id": user_ids.take(pa.array(user[is_kept])),
            "campaign": pa.array(["spring"] * int(is_kept.sum()), pa.string()),
            "redeemed_at": _at(redeemed_us[is_kept]),
            "loaded_at": _at(loaded_us[is_kept]),
        },
        schema=REDEMPTIONS,
    )


def exits_table(exits: Columns, people: People, user_ids: pa.Array) -> pa.Table:
    """Return `exits_truth`, one row per unfinished exit: the state at the exit and the user's hidden causes.

    Columns of `People` keep its names and codes (an employment is an index of `EMPLOYMENTS`, and so on). `next_at` may
    lie after the period's end, and is null where the user is lost.
    """
    return pa.table(
        {
            "user_id": user_ids.take(pa.array(exits["user"])),
            "exited_at": _at(exits["exited_us"]),
            "session_number": exits["session_number"],
            "progress_ratio": exits["progress_ratio"],
            "count_errors": exits["count_errors"],
            "count_helps": exits["count_helps"],
            "days_to_deadline": exits["days_to_deadline"],
            "return_probability": exits["return_probability"],
            "next_action": _words(truth.NEXT_ACTIONS, exits["action"]),
            "next_at": _nullable(exits["next_us"], exits["action"] == truth.LOST).cast(AT),
            **{field.name: getattr(people, field.name)[exits["user"]] for field in fields(People)},
        },
        schema=EXITS_TRUTH,
    )


def ids(prefix: str, numbers: Ints, digits: int) -> pa.Array:
    """Return the numbers as ids of a fixed width."""
    return pc.binary_join_element_wise(prefix, pc.utf8_lpad(pa.array(numbers).cast(pa.string()), digits, "0"), "")


def _at(at_us: Ints) -> pa.Array:
    return pa.array(at_us, pa.int64()).cast(AT)


def _nullable(values: Floats | Ints, is_null: Bools) -> pa.Array:
    return pa.array(values, mask=is_null)


def _words(words: tuple[str | None, ...], codes: Ints) -> pa.Array:
    return pa.array(words, pa.string()).take(pa.array(codes, mask=codes < 0))
