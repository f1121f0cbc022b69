"""Synthetic app: its tables follow the rules that its documentation states."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sandbox.synthetic_app import SyntheticApp, generate
from sandbox.synthetic_app import behaviour as truth

TABLES = ("events", "users", "redemptions", "exits_truth")
ENDS_AT = datetime(2026, 4, 11, tzinfo=UTC)  # 100 days after 1 January
DAY = "interval 1 day"

# Each event once, with the gap to the same user's previous event. Sessions are numbered by the 30-minute rule.
VIEWS = """
    set timezone = 'UTC';
    create view once as
    select * exclude (copy) from (
        select *, row_number() over (partition by event_id order by loaded_at) as copy from events
    ) where copy = 1;
    create view gaps as
    select *, epoch(occurred_at - lag(occurred_at) over (partition by user_id order by occurred_at)) / 60 as minutes
    from once;
    create view sessions as
    select user_id, number, min(occurred_at) as started_at, max(occurred_at) as ended_at,
        bool_or(event_name in ('filing_submitted', 'filing_deleted', 'filing_rejected')) as has_outcome
    from (
        select *, count(*) filter (minutes is null or minutes >= 30)
            over (partition by user_id order by occurred_at) as number
        from gaps
    )
    group by user_id, number;
    create view finished as
    select user_id, min(occurred_at) as finished_at from once where event_name = 'filing_submitted' group by user_id;
"""


def make(seed: int = 11, count_users: int = 1_500) -> SyntheticApp:
    return generate(seed=seed, count_users=count_users, starts_on=date(2026, 1, 1), count_days=100)


@pytest.fixture(scope="module")
def app() -> SyntheticApp:
    return make()


@pytest.fixture(scope="module")
def db(app: SyntheticApp) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for name in TABLES:
        connection.register(name, getattr(app, name))
    connection.execute(VIEWS)
    return connection


def one(db: duckdb.DuckDBPyConnection, query: str) -> Any:
    row = db.execute(query).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("name", TABLES)
def test_the_same_arguments_give_the_same_tables(app: SyntheticApp, name: str) -> None:
    assert getattr(make(), name).equals(getattr(app, name))


@pytest.mark.parametrize("name", TABLES)
def test_another_seed_gives_another_app(app: SyntheticApp, name: str) -> None:
    assert not getattr(make(seed=12), name).equals(getattr(app, name))


@pytest.mark.parametrize("count_users", [1, 2])
def test_an_app_of_hardly_any_users_can_be_generated(count_users: int) -> None:
    assert make(count_users=count_users).users.num_rows >= count_users


AT, TEXT, RATIO, FLAG, COUNT = "timestamp[us, tz=UTC]", "string", "double", "bool", "int64"
SCHEMAS = {
    "events": {
        "event_id": TEXT,
        "user_id": TEXT,
        "event_name": TEXT,
        "occurred_at": AT,
        "loaded_at": AT,
        "device_type": TEXT,
        "step": TEXT,
        "fields_filled_ratio": RATIO,
        "properties": TEXT,
    },
    "users": {
        "user_id": TEXT,
        "created_at": AT,
        "updated_at": AT,
        "age": COUNT,
        "income": RATIO,
        "employment_type": TEXT,
        "marital_status": TEXT,
        "previous_year_filing": FLAG,
        "referral_source": TEXT,
        "country": TEXT,
        "marketing_consent": FLAG,
        "erased_at": AT,
        "loaded_at": AT,
    },
    "redemptions": {"redemption_id": TEXT, "user_id": TEXT, "campaign": TEXT, "redeemed_at": AT, "loaded_at": AT},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_raw_table_has_exactly_the_columns_of_the_raw_layer(app: SyntheticApp, name: str) -> None:
    schema: pa.Schema = getattr(app, name).schema
    assert {field.name: str(field.type) for field in schema} == SCHEMAS[name]


@pytest.mark.parametrize(
    ("table", "column", "words"),
    [
        ("events", "event_name", truth.EVENT_NAMES),
        ("events", "step", truth.STEPS),
        ("events", "device_type", truth.DEVICES),
        ("users", "employment_type", truth.EMPLOYMENTS),
        ("users", "referral_source", truth.REFERRALS),
        ("users", "marital_status", ("single", "married", "divorced")),
        ("redemptions", "campaign", ("spring",)),
        ("exits_truth", "next_action", truth.NEXT_ACTIONS),
    ],
)
def test_a_column_uses_its_whole_vocabulary_and_no_other_word(
    db: duckdb.DuckDBPyConnection, table: str, column: str, words: tuple[str, ...]
) -> None:
    found = db.execute(f"select distinct {column} from {table} where {column} is not null").fetchall()
    assert {word for (word,) in found} == set(words)


# Every query counts violations.
LAWS = {
    "ratios lie in 0..1": "select count(*) from once where not fields_filled_ratio between 0 and 1",
    "a saved field carries its ratio": (
        "select count(*) from once where event_name = 'field_saved' and fields_filled_ratio is null"
    ),
    "a user's ratio never falls": (
        """select count(*) from (
            select fields_filled_ratio - lag(fields_filled_ratio) over (partition by user_id order by occurred_at)
                as gain
            from once where fields_filled_ratio is not null
        ) where gain < 0"""
    ),
    "a filing is submitted when it is full, and never before": (
        """select count(*) from once
        where event_name = 'filing_submitted' and (fields_filled_ratio < 1 or step != 'submit')"""
    ),
    "the copies of an event differ in nothing but loaded_at": (
        """select count(*) from (
            select event_id from (select distinct * exclude (loaded_at) from events)
            group by event_id having count(*) > 1
        )"""
    ),
    "no event is delivered more than twice, and never at the same time": (
        """select count(*) from (
            select event_id from events group by event_id
            having count(*) > 2 or count(distinct loaded_at) < count(*)
        )"""
    ),
    # In the last 6 days a missing late event may leave a longer gap.
    "gaps are below 25 minutes within a session and above 45 between two": (
        f"""select count(*) from gaps
        where minutes between 25 and 45 and occurred_at < timestamptz '{ENDS_AT}' - 6 * {DAY}"""
    ),
    "a session lasts two hours at most": (
        "select count(*) from sessions where ended_at - started_at > interval 2 hour"
    ),
    "nothing is loaded before it occurred, or after the period": (
        f"select count(*) from events where loaded_at <= occurred_at or loaded_at >= timestamptz '{ENDS_AT}'"
    ),
    "no user version comes from the future": (
        f"select count(*) from users where updated_at < created_at or updated_at >= timestamptz '{ENDS_AT}'"
    ),
    "a user version arrives before it is written, or late": (
        "select count(*) from users where loaded_at < updated_at or loaded_at > updated_at + interval 15 second"
    ),
    "a user is registered before the first event": (
        "select count(*) from once join users using (user_id) where occurred_at <= created_at"
    ),
    "nothing happens after an outcome": (
        """select count(*) from (
            select occurred_at, min(occurred_at) filter (
                event_name in ('filing_submitted', 'filing_deleted', 'filing_rejected')
            ) over (partition by user_id) as over_at from once
        ) where occurred_at > over_at"""
    ),
    "nothing happens after an erasure": (
        "select count(*) from once join users using (user_id) where occurred_at > erased_at"
    ),
    "a second user version only takes consent away or erases": (
        "select count(*) from users where updated_at > created_at and marketing_consent"
    ),
    "a user version is identified by user and time": (
        "select count(*) from (select 1 from users group by user_id, updated_at having count(*) > 1)"
    ),
}


@pytest.mark.parametrize("law", LAWS)
def test_there_is_no_exception_to_a_law(db: duckdb.DuckDBPyConnection, law: str) -> None:
    assert one(db, LAWS[law]) == 0


SHARES = {
    "users who finish, of those with 42 days to do it": (
        f"""select avg((finished_at is not null)::int)
        from (select user_id, min(started_at) as arrived_at from sessions group by user_id)
        left join finished using (user_id) where arrived_at < timestamptz '{ENDS_AT}' - 42 * {DAY}""",
        (0.56, 0.75),
    ),
    "exits with a matured label that are not followed by a completion within 14 days": (
        f"""select avg((finished_at is null or finished_at > exited_at + 14 * {DAY})::int)
        from exits_truth left join finished using (user_id)
        where next_action != 'rejected' and exited_at < timestamptz '{ENDS_AT}' - 14 * {DAY}""",
        (0.35, 0.60),
    ),
    "events delivered twice": ("select count(*) / count(distinct event_id) - 1 from events", (0.005, 0.015)),
    "events loaded within 5 minutes": (
        "select avg((loaded_at - occurred_at <= interval 5 minute)::int) from once",
        (0.89, 0.91),
    ),
    "events loaded after more than an hour": (
        "select avg((loaded_at - occurred_at > interval 1 hour)::int) from once",
        (0.007, 0.013),
    ),
    "events loaded after more than 3 days": (
        "select avg((loaded_at - occurred_at > interval 3 day)::int) from once",
        (0.00002, 0.0006),
    ),
    "users whose filing is rejected": (
        "select count(*) / 1500 from once where event_name = 'filing_rejected'",
        (0.002, 0.02),
    ),
    "users who withdraw their consent": (
        "select count(*) / 1500 from users where updated_at > created_at and erased_at is null",
        (0.015, 0.045),
    ),
    "users with consent": ("select avg(marketing_consent::int) from users where updated_at = created_at", (0.75, 0.85)),
    "users who filed last year": ("select avg(previous_year_filing::int) from users", (0.35, 0.45)),
    "users who redeemed": ("select count(distinct user_id) / 1500 from redemptions", (0.01, 0.08)),
}


@pytest.mark.parametrize("share", SHARES)
def test_a_share_is_what_the_documentation_says(db: duckdb.DuckDBPyConnection, share: str) -> None:
    query, (low, high) = SHARES[share]
    assert low <= one(db, query) <= high


def test_rows_are_not_in_the_order_of_events_or_arrival(app: SyntheticApp) -> None:
    for column in ("occurred_at", "loaded_at", "event_id"):
        values = app.events[column].to_numpy()
        assert 0.45 < np.mean(values[1:] > values[:-1]) < 0.55


def test_the_truth_lists_exactly_the_exits_that_sessionised_events_show(db: duckdb.DuckDBPyConnection) -> None:
    # Up to 6 days before the end, so that every event has arrived.
    before = f"< timestamptz '{ENDS_AT}' - 6 * {DAY}"
    shown = f"select user_id, ended_at from sessions where not has_outcome and ended_at {before}"
    listed = f"select user_id, exited_at from exits_truth where exited_at {before}"
    assert one(db, f"select count(*) from (({shown}) except ({listed}))") == 0
    assert one(db, f"select count(*) from (({listed}) except ({shown}))") == 0
    assert one(db, f"select count(*) from ({listed})") > 1_500


def test_the_truth_holds_all_that_an_oracle_needs(app: SyntheticApp) -> None:
    column = {name: app.exits_truth[name].to_numpy() for name in app.exits_truth.column_names}
    people = truth.People(**{name: column[name] for name in truth.People.__dataclass_fields__})
    probability = truth.return_probability(
        z=people.z,
        progress_ratio=column["progress_ratio"],
        count_errors=column["count_errors"],
        count_helps=column["count_helps"],
        is_previous_filer=people.is_previous_filer,
        referral=people.referral,
        days_to_deadline=column["days_to_deadline"],
    )
    np.testing.assert_array_equal(probability, column["return_probability"])
    played = truth.play_session(np.random.Generator(np.random.PCG64(1)), people, column["progress_ratio"])
    assert (played.progress_ratio >= column["progress_ratio"]).all()


def test_users_return_as_often_as_the_truth_says(app: SyntheticApp) -> None:
    probability = app.exits_truth["return_probability"].to_numpy()
    has_returned = np.array(app.exits_truth["next_action"].to_pylist()) == "returned"
    # 4 standard errors of a mean of about 3,500 coins, plus the few users whose filing the office closed.
    assert abs(has_returned.mean() - probability.mean()) < 0.03


def test_writing_makes_the_four_files(app: SyntheticApp, tmp_path: Path) -> None:
    app.write(tmp_path / "app")
    for file, name in {
        "events": "events",
        "users": "users",
        "redemptions": "redemptions",
        "truth": "exits_truth",
    }.items():
        assert pq.read_table(tmp_path / "app" / f"{file}.parquet").equals(getattr(app, name))
