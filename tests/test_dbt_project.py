"""Does the dbt project hold what it promises, on DuckDB by building it and on BigQuery by rendering it?"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlglot
import yaml
from dbt.adapters.bigquery import BigQueryAdapter
from dbt.cli.main import dbtRunner
from sqlglot import exp

from warehouse.duckdb import DuckDBWarehouse

HOUSE = Path(__file__).parents[1]
PROJECT = HOUSE / "dbt"
MODELS = {path.stem for path in PROJECT.glob("models/*/*.sql")}

Dbt = Callable[..., list[Any]]
Manifest = dict[str, Any]


def config(name: str) -> dict[str, Any]:
    return yaml.safe_load((HOUSE / "config" / name).read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dbt") / "winback.duckdb"
    warehouse = DuckDBWarehouse(path)
    warehouse.prepare()
    warehouse.close()
    return path


@pytest.fixture(scope="module")
def dbt(database: Path) -> Iterator[Dbt]:
    """Run dbt in-process on the database of this module; give back the results, having checked that all went well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WINBACK_WAREHOUSE", f"duckdb:///{database}")
        yield _runner(database.parent)


def _runner(folder: Path, profiles: Path = PROJECT) -> Dbt:
    def run(*arguments: str, **variables: Any) -> list[Any]:
        outcome = dbtRunner().invoke(
            [
                *arguments,
                *("--project-dir", str(PROJECT), "--profiles-dir", str(profiles)),
                *("--target-path", str(folder / "target"), "--log-path", str(folder / "logs")),
                *("--vars", json.dumps(variables), "--log-level", "none", "--log-level-file", "none", "--warn-error"),
            ]
        )
        results = getattr(outcome.result, "results", [])
        broken = {result.node.name: result.message for result in results if result.status not in ("success", "pass")}
        assert outcome.success, f"dbt {arguments[0]}: {outcome.exception or broken}"
        return list(results)

    return run


@pytest.fixture(scope="module")
def empty(dbt: Dbt) -> None:
    """Make every relation, without rows: unit tests ask the warehouse for the types of their columns."""
    dbt("run", "--empty")


@pytest.fixture(scope="module")
def manifest(empty: None, database: Path) -> Manifest:
    return json.loads((database.parent / "target" / "manifest.json").read_text())  # type: ignore[no-any-return]


def test_every_unit_test_passes(dbt: Dbt, empty: None) -> None:
    results = dbt("test", "--select", "test_type:unit")

    # The staging views rename; there is no logic in them to test.
    assert {result.node.fqn[-2] for result in results} == {name for name in MODELS if not name.startswith("stg_")}


def test_the_vars_of_the_project_repeat_the_configuration() -> None:
    variables = yaml.safe_load((PROJECT / "dbt_project.yml").read_text())["vars"]

    funnel = config("funnel.yml")
    assert {name: variables.get(name) for name in funnel} == funnel
    assert variables["cool_down_days"] == config("vouchers.yml")["voucher"]["cool_down_days"]
    assert variables["churn_probability_step"] == config("crm_fields.yml")["churn_probability_step"]


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


def test_every_model_is_tested_for_its_key(manifest: Manifest) -> None:
    generic = [node for node in manifest["nodes"].values() if node.get("test_metadata") and node["attached_node"]]
    unique = {node["attached_node"].split(".")[-1] for node in generic if node["test_metadata"]["name"] == "unique"}

    # Rows of these two are deliveries, of an event and of a message: without a key, and the next model deals with that.
    assert unique >= MODELS - {"stg_app__events", "stg_ops__deliveries"}


def test_what_python_reads_is_under_contract(manifest: Manifest) -> None:
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    enforced = {node["name"] for node in models if node["config"]["contract"]["enforced"]}

    assert enforced == {path.stem for path in PROJECT.glob("models/marts/*.sql")}


def test_the_feature_contract_is_in_the_marts_the_model_reads(manifest: Manifest) -> None:
    wanted = {feature["name"]: feature["type"] for feature in config("features.yml")["features"]}

    for mart in ("fct_scoring_candidates", "fct_training_examples"):
        columns = manifest["nodes"][f"model.winback.{mart}"]["columns"]
        types = {name: "category" if columns[name]["data_type"] == "string" else "number" for name in wanted}
        assert types == wanted


@pytest.mark.parametrize(
    ("selector", "models"),
    [
        ("features", {n for n in MODELS if n.startswith(("int_", "fct_"))} - {"fct_training_examples"}),
        ("audience", {"crm_profiles", "crm_acknowledged", "crm_pending"}),
        ("acknowledged", {"crm_acknowledged"}),
        ("examples", {"fct_training_examples"}),
        ("backfill", MODELS - {"fct_training_examples"}),
    ],
)
def test_a_selector_builds_its_models_and_runs_no_unit_test(
    selector: str, models: set[str], database: Path, dbt: Dbt
) -> None:
    listed = dbtRunner().invoke(
        [
            *("ls", "--selector", selector, "--output", "json", "--output-keys", "name resource_type"),
            *("--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)),
            *("--target-path", str(database.parent / "target"), "--log-path", str(database.parent / "logs")),
            *("--log-level", "none", "--log-level-file", "none", "--quiet"),
        ]
    )
    nodes = [json.loads(line) for line in listed.result]

    assert {node["name"] for node in nodes if node["resource_type"] == "model"} == models
    assert {node["resource_type"] for node in nodes} <= {"model", "test", "source"}


def test_contracts_and_data_tests_hold_in_a_backfill_and_the_hour_after_it(
    dbt: Dbt, empty: None, database: Path
) -> None:
    with duckdb.connect(str(database)) as connection:
        connection.execute(
            """insert into raw.users (user_id, created_at, updated_at, marketing_consent)
            select 'u' || u, timestamp '2026-03-01', timestamp '2026-03-01', true from range(4) as users(u)"""
        )
        # Each user twice, in the history and in the hour; user 3 finishes.
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

    dbt("build", "--full-refresh", "--selector", "backfill", **history)
    dbt("build", "--selector", "features", **hour)
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
                timestamp '2026-03-10 11:00:00', 3, 3, 0, 3, timestamp '2026-03-10 11:01:00', 'm1', 'p1')"""
        )
    dbt("build", "--selector", "audience", profiles_from=hour["from_at"], **hour)
    dbt("build", "--selector", "features", **hour)
    with duckdb.connect(str(database)) as connection:
        pending = connection.sql("select user_id, is_voucher_eligible from marts.crm_pending order by 1").fetchall()
        decided_again = connection.sql(waiting).fetchall()

    assert candidates == [("u0", 2), ("u1", 2), ("u2", 2)]
    assert pending == [("u0", True), ("u1", True), ("u2", True)]
    assert decided_again == []


@pytest.fixture(scope="module", params=["first build", "incremental"])
def on_bigquery(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Render every model and data test as for BigQuery: no credentials, no network.

    The project's own profile would look for credentials, so another takes its place. The one thing that dbt asks of
    BigQuery when it compiles is whether a relation is there; the answer is given here.
    """

    def get_relation(adapter: Any, database: str, schema: str, identifier: str) -> Any:
        there = adapter.Relation.create(database=database, schema=schema, identifier=identifier, type="table")
        return there if request.param == "incremental" else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BigQueryAdapter, "get_relation", get_relation)
        folder = tmp_path_factory.mktemp("bigquery")
        (folder / "profiles.yml").write_text(
            "winback: {target: bigquery, outputs: {bigquery: {type: bigquery, method: oauth-secrets, token: none,"
            " project: some-project, dataset: winback, threads: 1}}}"
        )
        dbt = _runner(folder, profiles=folder)
        results = dbt("compile", "--no-populate-cache", "--no-introspect", "--exclude", "test_type:unit")
    return {result.node.name: result.node.compiled_code for result in results if result.node.compiled_code}


def test_every_query_parses_as_bigquery(on_bigquery: dict[str, str]) -> None:
    for name, sql in on_bigquery.items():
        assert sqlglot.parse_one(sql, dialect="bigquery"), name

    assert set(on_bigquery) >= MODELS
    assert "`some-project`.`winback_marts`.`crm_acknowledged`" in on_bigquery["crm_pending"]


def test_no_query_asks_for_the_time_or_compares_with_what_a_subquery_finds(on_bigquery: dict[str, str]) -> None:
    """Every bound is a literal: only then do partitions prune, and only then does a repeated run give the same rows."""
    clocks = (exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentDatetime, exp.CurrentTime)
    for name, sql in on_bigquery.items():
        query = sqlglot.parse_one(sql, dialect="bigquery")
        calls = {call.name.lower() for call in query.find_all(exp.Anonymous)}
        bounds = [node for node in query.find_all(exp.Subquery) if isinstance(node.parent, (exp.Binary, exp.Between))]

        assert not list(query.find_all(*clocks)), name
        assert not calls & {"now", "today", "get_current_timestamp"}, name
        assert not bounds, name


def test_no_file_in_dbt_hides_the_dbt_package() -> None:
    assert sorted(PROJECT.rglob("*.py")) == []
