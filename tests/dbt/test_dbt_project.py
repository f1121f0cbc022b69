"""The dbt project as a whole: built on DuckDB, and rendered for BigQuery."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import jinja2
import pytest
import sqlglot
import yaml
from sqlglot import exp

from jobs.transform.funnel import Funnel
from tests.support.dbt.on_bigquery import record
from tests.support.dbt.on_duckdb import MODELS, PROJECT, artifact, invoke, prepare_empty, run

pytestmark = pytest.mark.data_tests

HOUSE = Path(__file__).parents[2]

Manifest = dict[str, Any]


def config(name: str) -> dict[str, Any]:
    return yaml.safe_load((HOUSE / "config" / name).read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All relations without rows, because unit tests read column types from the warehouse."""
    return prepare_empty(tmp_path_factory.mktemp("dbt"))


@pytest.fixture(scope="module")
def manifest(database: Path) -> Manifest:
    return artifact(database, "manifest.json")


def test_every_unit_test_passes(database: Path) -> None:
    results = run(database, "test", "--select", "test_type:unit")

    # The staging views only rename, so they have no unit tests.
    assert {result.node.fqn[-2] for result in results} == {name for name in MODELS if not name.startswith("stg_")}


def test_the_vars_of_the_project_repeat_the_configuration() -> None:
    variables = yaml.safe_load((PROJECT / "dbt_project.yml").read_text())["vars"]

    funnel = config("funnel.yml")
    assert {name: variables.get(name) for name in funnel} == funnel
    assert variables["cool_down_days"] == config("vouchers.yml")["voucher"]["cool_down_days"]
    assert variables["churn_probability_step"] == config("crm_fields.yml")["churn_probability_step"]


@pytest.mark.parametrize(
    ("lateness_days", "hours", "gap_minutes", "days"),
    [
        (3, 24, 30, 5),
        (3, 23, 30, 4),
        (3, 24, 1, 5),
        (1, 24, 720, 3),
        (1, 24, 721, 4),
        (30, 168, 1440, 39),
        (1, 1, 30, 2),
    ],
)
def test_dbt_and_python_reach_as_many_days_back(lateness_days: int, hours: int, gap_minutes: int, days: int) -> None:
    values = {"max_lateness_days": lateness_days, "max_session_hours": hours, "session_gap_minutes": gap_minutes}
    returned: list[int] = []
    macros = jinja2.Environment().from_string((PROJECT / "macros" / "time.sql").read_text())  # noqa: S701 - SQL, not HTML
    macros.make_module({"var": values.get, "return": returned.append}).days_in_reach()  # type: ignore[attr-defined]

    assert returned == [days]
    assert Funnel(completion_events=["filed"], **values).days_in_reach == days


def test_every_model_says_its_grain_and_describes_exactly_the_columns_it_has(
    manifest: Manifest, database: Path
) -> None:
    models = {node["name"]: node for node in manifest["nodes"].values() if node["resource_type"] == "model"}
    with duckdb.connect(str(database)) as connection:
        rows = connection.execute("select table_name, column_name from information_schema.columns").fetchall()
    columns = {name: {column for table, column in rows if table == name} for name in models}

    assert set(models) == MODELS
    assert [name for name, node in models.items() if not node["description"].startswith("One row per ")] == []
    assert {name: set(node["columns"]) for name, node in models.items()} == columns
    described = [column["description"] for node in models.values() for column in node["columns"].values()]
    assert all(described)


def test_what_python_reads_is_under_contract(manifest: Manifest) -> None:
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    enforced = {node["name"] for node in models if node["config"]["contract"]["enforced"]}

    assert enforced == {path.stem for path in PROJECT.glob("models/marts/**/*.sql")}


def test_the_feature_contract_is_in_the_marts_the_model_reads(manifest: Manifest) -> None:
    wanted = {feature["name"]: feature["type"] for feature in config("features.yml")["features"]}

    for mart in ("fct_scoring_candidates", "fct_training_examples"):
        columns = manifest["nodes"][f"model.winback.{mart}"]["columns"]
        types = {name: "category" if columns[name]["data_type"] == "string" else "number" for name in wanted}
        assert types == wanted


BUILT_HOURLY = {name for name in MODELS if name.startswith(("int_", "fct_"))} - {"fct_training_examples"}
AUDIENCE = {"crm_profiles", "crm_acknowledged", "crm_pending"}
# Views for analysts. After an upgrade, the first nightly run creates those that an earlier backfill did not.
SYNC_LOG = {"stg_ops__reports", "stg_ops__shadow_scores", "crm_sync_attempts", "crm_sync_rejections", "crm_sync_runs"}
COUNTED_ONCE = {"fct_scoring_candidates", "fct_arrivals", "fct_late_events"}
AUDITED = {"fct_unfinished_exits", "fct_exit_features", "stg_app__events", "stg_app__users"}


def listed(database: Path, selector: str) -> list[dict[str, Any]]:
    keys = "name resource_type tags"
    answer = invoke(database, "ls", "--selector", selector, "--output", "json", "--output-keys", keys, "--quiet")
    return [json.loads(line) for line in answer.result]


@pytest.mark.parametrize(
    ("selector", "models"),
    [
        ("features", BUILT_HOURLY),
        ("audience", AUDIENCE),
        ("acknowledged", {"crm_acknowledged"}),
        ("hourly", BUILT_HOURLY | AUDIENCE),
        # The nightly run rebuilds this view, in case the app's table has a column loaded_at by now.
        ("nightly", BUILT_HOURLY - COUNTED_ONCE | SYNC_LOG | {"stg_app__users"}),
        ("examples", {"fct_training_examples"}),
        ("backfill", MODELS - {"fct_training_examples"}),
        ("audit", AUDITED | {name for name in MODELS if name.startswith("int_")} - {"int_users_set_aside"}),
        ("ci", MODELS),
    ],
)
def test_a_selector_builds_its_models(selector: str, models: set[str], database: Path) -> None:
    nodes = listed(database, selector)

    assert {node["name"] for node in nodes if node["resource_type"] == "model"} == models
    assert ("unit_test" in {node["resource_type"] for node in nodes}) == (selector == "ci")
    assert ("test" in {node["resource_type"] for node in nodes}) == (selector != "audit")


def test_the_hour_leaves_to_the_night_only_the_tests_that_read_whole_tables(database: Path) -> None:
    tests = {
        selector: {node["name"] for node in listed(database, selector) if node["resource_type"] == "test"}
        for selector in ("hourly", "nightly", "backfill", "ci")
    }
    whole = {node["name"] for node in listed(database, "ci") if "nightly" in node.get("tags", ())}

    assert tests["hourly"] & whole == set()
    assert whole <= tests["nightly"]
    assert tests["backfill"] == tests["hourly"] | whole
    assert {name for name in tests["ci"] - tests["backfill"] if "fct_training_examples" not in name} == set()


def test_contracts_and_data_tests_hold_in_a_backfill_and_the_hour_after_it(database: Path) -> None:
    with duckdb.connect(str(database)) as connection:
        connection.execute(
            """insert into raw.users (user_id, created_at, updated_at, marketing_consent)
            select 'u' || u, timestamp '2026-03-01', timestamp '2026-03-01', true from range(4) as users(u)"""
        )
        # Each user has events in the history and in the hour. User 3 finishes.
        connection.execute(
            """insert into raw.app_events (event_id, user_id, event_name, occurred_at, loaded_at, fields_filled_ratio)
            select hour || '-' || u || '-' || e, 'u' || u,
                case when u = 3 and e = 4 then 'filing_submitted' else 'field_saved' end,
                hour + interval (e) minute, hour + interval (e) minute, e / 10.0
            from range(4) as users(u), range(5) as events(e),
                (values (timestamp '2026-03-09 10:00:00'), (timestamp '2026-03-10 10:00:00')) as hours(hour)"""
        )
    night = "2026-03-10 00:00:00"
    history = {"from_at": "1970-01-01 00:00:00", "until_at": night, "history_until": night}
    hour = {"history_until": night, "from_at": "2026-03-10 10:00:00", "until_at": "2026-03-10 11:00:00"}

    run(database, "build", "--full-refresh", "--selector", "backfill", allow_full_refresh=True, **history)
    run(database, "build", "--selector", "features", **hour)
    with duckdb.connect(str(database)) as connection:
        waiting = "select user_id, count_sessions from marts.fct_scoring_candidates order by 1"
        candidates = connection.sql(waiting).fetchall()
        connection.execute(
            """insert into ops.decisions (exit_id, user_id, exited_at, run_id, epoch, decided_at, disposition,
                churn_probability, churn_risk_band, experiment_arm, is_eligible, eligibility_reason, valid_until)
            select exit_id, user_id, exited_at, 'r1', 1, timestamp '2026-03-10 11:00:00', 'scored',
                0.7, 'high', 'treatment', true, 'granted', timestamp '2026-03-17 11:00:00'
            from marts.fct_scoring_candidates"""
        )
        connection.execute(
            """insert into ops.runs values (1, 'r1', 'hourly', timestamp '2026-03-10 10:00:00',
                timestamp '2026-03-10 11:00:00', 3, 3, 0, 3, timestamp '2026-03-10 11:01:00', 'm1', 'p1', null)"""
        )
    run(database, "build", "--selector", "audience", profiles_from=hour["from_at"], **hour)
    run(database, "build", "--selector", "features", **hour)
    with duckdb.connect(str(database)) as connection:
        pending = connection.sql("select user_id, is_voucher_eligible from marts.crm_pending order by 1").fetchall()
        decided_again = connection.sql(waiting).fetchall()

    assert candidates == [("u0", 2), ("u1", 2), ("u2", 2)]
    assert pending == [("u0", True), ("u1", True), ("u2", True)]
    assert decided_again == []


@pytest.fixture(scope="module", params=["first build", "incremental"])
def on_bigquery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Render every model and data test as for BigQuery."""
    arguments = ("compile", "--no-introspect", "--exclude", "test_type:unit")
    recording = record(tmp_path_factory.mktemp("bigquery"), *arguments, is_first=request.param == "first build")
    nodes = recording.manifest["nodes"].values()
    return {node["name"]: node["compiled_code"] for node in nodes if node.get("compiled_code")}


def test_every_query_parses_as_bigquery(on_bigquery: Mapping[str, str]) -> None:
    for name, sql in on_bigquery.items():
        assert sqlglot.parse_one(sql, dialect="bigquery"), name

    assert set(on_bigquery) >= MODELS
    assert "`some-project`.`winback_marts`.`crm_acknowledged`" in on_bigquery["crm_pending"]


def test_no_query_asks_for_the_time_or_compares_with_what_a_subquery_finds(on_bigquery: Mapping[str, str]) -> None:
    """Every bound is a literal, so that partitions are pruned and a repeated run gives the same rows."""
    clocks = (exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentDatetime, exp.CurrentTime)
    for name, sql in on_bigquery.items():
        query = sqlglot.parse_one(sql, dialect="bigquery")
        calls = {call.name.lower() for call in query.find_all(exp.Anonymous)}
        bounds = [node for node in query.find_all(exp.Subquery) if isinstance(node.parent, (exp.Binary, exp.Between))]

        assert not list(query.find_all(*clocks)), name
        assert not calls & {"now", "today", "get_current_timestamp"}, name
        assert not bounds, name


def test_a_users_table_without_a_time_of_arrival_is_read_without_it(database: Path, tmp_path: Path) -> None:
    """On BigQuery the app owns the table, which may lack loaded_at. A version then counts as arrived when it was written."""
    lacking = tmp_path / database.name
    shutil.copy(database, lacking)
    with duckdb.connect(str(lacking)) as connection:
        connection.execute("alter table raw.users drop column loaded_at")
        connection.execute("delete from raw.users")
        connection.execute(
            """insert into raw.users (user_id, created_at, updated_at, marketing_consent)
            values ('ada', timestamp '2026-03-01', timestamp '2026-03-02', true)"""
        )
    run(lacking, "run", "--select", "stg_app__users")
    with duckdb.connect(str(lacking)) as connection:
        columns = "user_id, loaded_at = updated_at, is_arrival_known, written_at = updated_at"
        assert connection.sql(f"select {columns} from staging.stg_app__users").fetchall() == [
            ("ada", True, False, True)
        ]


def test_no_file_in_dbt_hides_the_dbt_package() -> None:
    assert sorted(PROJECT.rglob("*.py")) == []
