"""Does `winback doctor` find what would stop a run, say what to do, and change nothing?"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google.auth
import pytest
from click.testing import CliRunner
from google.api_core import exceptions as api
from google.auth import compute_engine, impersonated_credentials
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError
from google.cloud import bigquery
from google.oauth2 import credentials as oauth2
from google.oauth2 import service_account
from pydantic import SecretStr

from jobs.cli import cli
from jobs.doctor import doctor
from jobs.findings import Finding, size
from jobs.findings_bigquery import findings
from jobs.findings_local import features
from jobs.remedies import Wanted
from jobs.settings import Settings
from scoring.contract import load_contract
from tests.bigquery_world import bigquery_settings, connection_to, with_raw_tables
from tests.emulator import PROJECT, Emulator
from tests.world import API_KEY, CONFIG, NOW, World, settings_in
from warehouse.bigquery import BigQueryWarehouse
from warehouse.bigquery_doctor import examine, login_of, project_permissions
from warehouse.bigquery_facts import LAYERS, Facts, Granted, Login, Refusal, TableFacts
from warehouse.ledger import Epoch, commit
from warehouse.tables import ALL, APP_EVENTS

# A BigQuery in which nothing is wrong

TYPES = {"string": "STRING", "double": "FLOAT64", "int64": "INT64", "bool": "BOOL"}
WANTED = Wanted("shop", "winback", location="", max_bytes_billed=1 << 40)
ALL_RIGHTS = frozenset({"bigquery.jobs.create", "bigquery.readsessions.create", "bigquery.datasets.create"})
DENIED = Refusal("denied", "BigQuery refused for want of a permission.")
MISSING = Refusal("missing", "A dataset or table is missing.")
RAW_GRANT = (
    "bq --project_id=shop --location=EU query --use_legacy_sql=false "
    "'GRANT `roles/bigquery.dataViewer` ON SCHEMA `shop`.`winback_raw` TO \"serviceAccount:SERVICE_ACCOUNT\"'"
)


def kept(table: Any) -> TableFacts:
    """A table as this version makes it."""
    types = {column.name: TYPES.get(str(column.type), "TIMESTAMP") for column in table.columns}
    by_day = table.partition_on is not None
    return TableFacts(
        types,
        types,
        partition_on=table.partition_on,
        partition_by="DAY" if by_day else None,
        is_filter_required=by_day,
        clustered_by=("user_id",),
        count_bytes=1 << 40,
    )


READ = frozenset({"bigquery.tables.getData"})
SOUND = Facts(
    login=Login("attached", "job@shop.iam.gserviceaccount.com"),
    project=ALL_RIGHTS,
    locations=dict.fromkeys(LAYERS, "EU"),
    tables={f"{table.layer}.{table.name}": kept(table) for table in ALL},
    granted={layer: Granted("some_table", READ, READ) for layer in LAYERS},
    session=True,
    reads={"marts.fct_scoring_candidates": 3 << 20, "marts.crm_pending": 0},
)


def with_table(name: str, **changes: Any) -> Facts:
    table = SOUND.tables[name]
    assert isinstance(table, TableFacts)
    return replace(SOUND, tables=SOUND.tables | {name: replace(table, **changes)})


def without_column(name: str, column: str) -> Facts:
    table = SOUND.tables[name]
    assert isinstance(table, TableFacts)
    return with_table(name, types={key: kind for key, kind in table.types.items() if key != column})


def troubles(found: list[Finding] | tuple[Finding, ...]) -> dict[str, str]:
    """What is neither right nor left out."""
    return {one.check: one.state for one in found if one.state in ("warning", "failed")}


def named(found: list[Finding] | tuple[Finding, ...], check: str) -> Finding:
    return next(one for one in found if one.check == check)


def test_nothing_is_wrong_with_a_sound_project() -> None:
    assert [one for one in findings(SOUND, WANTED) if one.state != "ok" or one.do] == []


@pytest.mark.parametrize(
    ("facts", "check", "state", "told", "do"),
    [
        (
            Facts(Refusal("login", "None found. Log in.")),
            "credentials",
            "failed",
            "None found",
            "gcloud auth application-default login",
        ),
        (replace(SOUND, login=Login("key", "job@shop")), "credentials", "warning", "key file", "workload identity federation"),
        (
            replace(SOUND, queries=DENIED),
            "queries",
            "failed",
            "bigquery.jobs.create is missing",
            "gcloud projects add-iam-policy-binding shop --member=serviceAccount:SERVICE_ACCOUNT --role=roles/bigquery.jobUser",
        ),
        (
            Facts(Login("attached"), queries=Refusal("disabled", "")),
            "queries",
            "failed",
            "has not switched BigQuery on",
            "gcloud services enable bigquery.googleapis.com",
        ),
        (replace(SOUND, queries=MISSING), "queries", "failed", "no project shop", "WINBACK_WAREHOUSE"),
        (
            replace(SOUND, locations=SOUND.locations | {"raw": MISSING}),
            "dataset winback_raw",
            "failed",
            "is not there",
            "bq --location=EU mk --dataset shop:winback_raw",
        ),
        (
            replace(SOUND, locations=SOUND.locations | {"raw": DENIED}),
            "dataset winback_raw",
            "failed",
            "may not be looked at",
            RAW_GRANT,
        ),
        (
            replace(SOUND, locations=SOUND.locations | {"ops": MISSING, "marts": MISSING}, project=frozenset[str]()),
            "datasets to come",
            "failed",
            "not there, and the job may not create them: winback_ops, winback_marts",
            "bq --location=EU mk --dataset shop:winback_marts",
        ),
        (
            replace(SOUND, locations=SOUND.locations | {"ops": MISSING}, project=Refusal("unasked", "")),
            "datasets to come",
            "warning",
            "not there, and whether the job may create them cannot be asked here: winback_ops",
            "roles/bigquery.user",
        ),
        (
            replace(SOUND, locations=SOUND.locations | {"marts": "us-east1"}),
            "location",
            "failed",
            "us-east1: winback_marts",
            "where the raw one is",
        ),
        (without_column("raw.users", "income"), "raw.users", "failed", "has no column income", "view"),
        (
            with_table("raw.users", types=kept(ALL[1]).types | {"age": "STRING"}),
            "raw.users",
            "failed",
            "has age as STRING instead of INT64",
            "view",
        ),
        (
            without_column("ops.runs", "policy_version"),
            "tables of ops",
            "failed",
            "ops.runs has no column policy_version",
            "ALTER TABLE `shop`.`winback_ops`.`runs` ADD COLUMN policy_version STRING;",
        ),
        (
            # 1 TiB an hour, 730 hours, 6.25 dollars
            with_table("raw.app_events", partition_on=None, partition_by=None),
            "raw.app_events by day",
            "warning",
            "now up to 1.0 TiB a time; on demand about 4,562.50 US dollars a month",
            "CREATE TABLE `shop`.`winback_raw`.`app_events_by_day` PARTITION BY DATE(loaded_at) "
            "CLUSTER BY user_id OPTIONS (require_partition_filter = TRUE) AS SELECT * FROM `shop`.`winback_raw`.`app_events`;",
        ),
        (
            with_table("raw.app_events", partition_by="MONTH"),
            "raw.app_events by day",
            "warning",
            "not kept by the day",
            "RENAME TO app_events;",
        ),
        (
            with_table("raw.app_events", is_filter_required=False),
            "raw.app_events by day",
            "warning",
            "no partition filter is required",
            "ALTER TABLE `shop`.`winback_raw`.`app_events` SET OPTIONS (require_partition_filter = TRUE);",
        ),
        (
            with_table("ops.decisions", clustered_by=()),
            "ops.decisions by day",
            "warning",
            "not clustered by user_id",
            "bq update --clustering_fields=user_id shop:winback_ops.decisions",
        ),
        (
            replace(SOUND, granted={"raw": Granted("users", READ, frozenset())}),
            "permissions on winback_raw",
            "failed",
            "bigquery.tables.getData is missing (asked of users)",
            RAW_GRANT,
        ),
        (
            replace(SOUND, granted={"marts": Granted("crm_profiles", READ, frozenset())}),
            "permissions on winback_marts",
            "failed",
            "bigquery.tables.getData is missing",
            RAW_GRANT.replace("dataViewer", "dataEditor").replace("_raw", "_marts"),
        ),
        (
            replace(SOUND, session=DENIED),
            "fast reading",
            "failed",
            "bigquery.readsessions.create",
            "roles/bigquery.readSessionUser",
        ),
        (
            replace(SOUND, reads={"marts.crm_pending": 3 << 40}),
            "bytes to sync",
            "failed",
            "a run reads 3.0 TiB of marts.crm_pending, of the 1.0 TiB",
            f"export WINBACK_BIGQUERY_MAX_BYTES={4 << 40}",
        ),
    ],
)  # fmt: skip
def test_each_trouble_is_told_with_its_remedy(facts: Facts, check: str, state: str, told: str, do: str) -> None:
    found = findings(facts, WANTED)

    assert troubles(found) == {check: state}
    assert told in named(found, check).says
    assert do in "\n".join(named(found, check).do)


@pytest.mark.parametrize(
    ("changes", "check", "state", "told"),
    [
        ({"location": "US"}, "location", "failed", "WINBACK_BIGQUERY_LOCATION is US, and the datasets lie in EU"),
        ({"endpoint": "https://bigquery.internal"}, "endpoints", "warning", "WINBACK_BIGQUERY_STORAGE_ENDPOINT is not"),
        (
            {
                "endpoint": "https://bigquery.us-east4.rep.googleapis.com",
                "storage_endpoint": "bigquerystorage.us-east4.rep.googleapis.com:443",
            },
            "endpoints",
            "failed",
            "serves us-east4, and the datasets lie in EU",
        ),
    ],
)
def test_settings_that_do_not_fit_the_datasets_are_told(
    changes: dict[str, str], check: str, state: str, told: str
) -> None:
    found = findings(SOUND, replace(WANTED, **changes))  # type: ignore[arg-type]

    assert troubles(found) == {check: state}
    assert told in named(found, check).says


def test_a_location_in_other_letters_is_the_same() -> None:
    assert troubles(findings(SOUND, replace(WANTED, location="eu"))) == {}


def test_datasets_that_the_job_may_create_are_no_trouble() -> None:
    found = findings(replace(SOUND, locations={"raw": "EU", "ops": MISSING}), WANTED)

    assert troubles(found) == {}
    assert named(found, "datasets to come").says == "the first run creates winback_ops"


def test_a_view_in_place_of_a_raw_table_is_taken() -> None:
    found = findings(with_table("raw.app_events", kind="VIEW", partition_on=None), WANTED)

    assert troubles(found) == {}
    assert named(found, "raw.app_events by day").state == "skipped"


def test_what_could_not_be_asked_is_no_trouble() -> None:
    granted: dict[str, Granted | Refusal] = {"raw": Refusal("unasked", ""), "ops": Refusal("missing", "")}
    found = findings(replace(SOUND, granted=granted, session=None, reads={"marts.crm_pending": MISSING}), WANTED)

    assert troubles(found) == {}
    assert named(found, "permissions on winback_raw").says == "cannot be asked here"
    assert "If a run is refused there, grant:" in named(found, "permissions on winback_ops").do


def made(kind: Any, **attributes: Any) -> Any:
    """Credentials of a class, without the key or token that their making asks for."""
    credentials = object.__new__(kind)
    credentials.__dict__.update(attributes)
    return credentials


@pytest.mark.parametrize(
    ("credentials", "login"),
    [
        (AnonymousCredentials(), Login("none")),
        (made(service_account.Credentials, _service_account_email="job@shop"), Login("key", "job@shop")),
        (made(compute_engine.Credentials, _service_account_email="job@shop"), Login("attached", "job@shop")),
        (made(compute_engine.Credentials, _service_account_email="default"), Login("attached")),
        (made(impersonated_credentials.Credentials, _target_principal="job@shop"), Login("impersonated", "job@shop")),
        (oauth2.Credentials("token", account="somebody@example.com"), Login("person")),
    ],
)
def test_credentials_are_told_by_their_kind_and_a_person_is_not_named(credentials: Any, login: Login) -> None:
    assert login_of(credentials) == login


def test_sizes_are_told_as_a_person_reads_them() -> None:
    assert [size(n) for n in (0, 1023, 1 << 20, 1 << 50)] == ["0 bytes", "1,023 bytes", "1.0 MiB", "1,024.0 TiB"]


# BigQuery, or what stands for it


@pytest.fixture
def warehouse(emulator: Emulator, request: pytest.FixtureRequest) -> Iterator[BigQueryWarehouse]:
    """The tables of a first start, in datasets of this test's own."""
    prefix = "d" + hashlib.sha256(request.node.name.encode()).hexdigest()[:8]
    with closing(with_raw_tables(emulator, prefix)) as warehouse:
        emulator.forget()
        yield warehouse


def looked(warehouse: BigQueryWarehouse, emulator: Emulator, **changes: Any) -> list[Finding]:
    prefix = warehouse.connection.prefix
    wanted = Wanted(PROJECT, prefix, "US", 1 << 40, emulator.url, emulator.storage_endpoint)
    return findings(examine(connection_to(emulator, prefix, **changes)), wanted)


# What the emulator keeps nothing of: partition filters.
AS_THE_EMULATOR_HAS_IT = {f"{name} by day": "warning" for name in ("raw.app_events", "ops.decisions", "ops.deliveries")}


def everything_in(client: bigquery.Client) -> list[str]:
    datasets = [dataset.dataset_id for dataset in client.list_datasets()]
    tables = [client.get_table(table.reference) for dataset in datasets for table in client.list_tables(dataset)]
    return sorted([*datasets, *(f"{table.reference} {table.num_rows}" for table in tables)])


def test_a_first_start_lacks_history_and_a_model_and_nothing_else(
    warehouse: BigQueryWarehouse, emulator: Emulator, tmp_path: Path
) -> None:
    found = doctor(bigquery_settings(emulator, warehouse.connection.prefix, tmp_path)).findings

    assert troubles(found) == AS_THE_EMULATOR_HAS_IT | {
        "model": "failed",
        "history": "failed",
        "datasets to come": "warning",
        "CRM": "warning",  # nobody has started the local one
    }
    assert named(found, "history").do[1] == "winback backfill --until TIME"
    assert named(found, "permissions on " + warehouse.connection.prefix + "_raw").says == "cannot be asked here"
    assert named(found, "fast reading").state == "ok"


def test_nothing_is_created_loaded_or_altered(warehouse: BigQueryWarehouse, emulator: Emulator, tmp_path: Path) -> None:
    before = everything_in(warehouse.client)

    doctor(bigquery_settings(emulator, warehouse.connection.prefix, tmp_path))

    assert everything_in(warehouse.client) == before
    assert [asked.text for asked in emulator.asked if not asked.text.lstrip().startswith("select ")] == []
    assert list(tmp_path.iterdir()) == []


def test_the_sql_it_prescribes_mends_what_it_found(warehouse: BigQueryWarehouse, emulator: Emulator) -> None:
    runs = f"{PROJECT}.{warehouse.connection.prefix}_ops.runs"
    without = [f for f in warehouse.client.get_table(runs).schema if f.name != "policy_version"]
    warehouse.client.delete_table(runs)
    warehouse.client.create_table(bigquery.Table(runs, without))
    sick = named(looked(warehouse, emulator), "tables of ops")
    assert sick.says == "ops.runs has no column policy_version"

    for sql in sick.do[1:]:
        warehouse.client.query(sql).result()

    # Asked of the table: the emulator's metadata goes without columns that came later.
    assert warehouse.query(f"select policy_version from {warehouse.relation('ops', 'runs')}").num_rows == 0


def test_the_copy_it_prescribes_is_kept_by_day(warehouse: BigQueryWarehouse, emulator: Emulator) -> None:
    name = f"{PROJECT}.{warehouse.connection.prefix}_raw.app_events"
    schema = warehouse.client.get_table(name).schema
    warehouse.client.delete_table(name)
    warehouse.client.create_table(bigquery.Table(name, schema))
    sick = named(looked(warehouse, emulator), "raw.app_events by day")
    assert "not kept by the day of loaded_at" in sick.says

    for sql in sick.do[1:]:
        warehouse.client.query(sql).result()

    # A renamed table keeps its old name in the emulator's metadata, and its partitions with it.
    assert warehouse.client.get_table(f"{name}_by_day").time_partitioning.type_ == "DAY"
    assert warehouse.query(f"select * from {warehouse.relation('raw', 'app_events_unpartitioned')}").num_rows == 0


def test_a_project_without_datasets_is_told_what_to_create(emulator: Emulator, tmp_path: Path) -> None:
    found = doctor(bigquery_settings(emulator, "nowhere", tmp_path)).findings

    assert named(found, "dataset nowhere_raw").state == "failed"
    assert "bq --location=US mk --dataset local:nowhere_ops" in named(found, "datasets to come").do
    assert named(found, "history").state == "skipped"


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("accessDenied", "bigquery.jobs.create is missing"),
        ("quotaExceeded", "A BigQuery quota is used up"),
        ("billingNotEnabled", "Billing is not enabled for the project"),
    ],
)
def test_a_project_that_refuses_queries_is_still_looked_at(
    warehouse: BigQueryWarehouse, emulator: Emulator, reason: str, told: str
) -> None:
    emulator.refuse("select 1", {"status": 403, "reason": reason, "message": "Refused"})

    found = looked(warehouse, emulator)

    assert told in named(found, "queries").says
    assert named(found, "raw.users").state == "ok"


class Answering:
    """Stands in for the Resource Manager, which no emulator here does."""

    def __init__(self, status: int) -> None:
        self.status = status

    def __call__(self, _: Any) -> Any:
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def post(self, url: str, json: dict[str, list[str]], timeout: float) -> Any:
        assert (url.rpartition("/")[2], timeout) == ("shop:testIamPermissions", 1)
        return SimpleNamespace(ok=self.status == 200, json=lambda: {"permissions": json["permissions"][:1]})


@pytest.mark.parametrize(
    ("status", "answer"), [(200, frozenset({"bigquery.jobs.create"})), (403, Refusal("unasked", ""))]
)
def test_the_project_is_asked_through_the_resource_manager_where_it_answers(
    monkeypatch: pytest.MonkeyPatch, status: int, answer: object
) -> None:
    monkeypatch.setattr("warehouse.bigquery_doctor.AuthorizedSession", Answering(status))

    assert project_permissions(AnonymousCredentials(), "shop", 1) == answer


def test_permissions_are_asked_of_one_table_of_each_dataset(
    warehouse: BigQueryWarehouse, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: Any, table: Any, permissions: list[str], **__: Any) -> dict[str, Any]:
        mine = [one for one in permissions if table.dataset_id.endswith("_raw") or one != "bigquery.tables.delete"]
        return {"permissions": mine}

    monkeypatch.setattr(bigquery.Client, "test_iam_permissions", answer)
    found = looked(warehouse, emulator)

    prefix = warehouse.connection.prefix
    assert named(found, f"permissions on {prefix}_raw").says == "read"
    assert named(found, f"permissions on {prefix}_ops").says.startswith("bigquery.tables.delete is missing")
    assert "roles/bigquery.dataEditor" in named(found, f"permissions on {prefix}_ops").do[1]


def test_a_reading_session_that_is_refused_is_told(
    warehouse: BigQueryWarehouse, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise api.PermissionDenied("bigquery.readsessions.create")

    monkeypatch.setattr("google.cloud.bigquery_storage.BigQueryReadClient.create_read_session", refuse)

    assert "roles/bigquery.readSessionUser" in named(looked(warehouse, emulator), "fast reading").do[1]


def test_history_and_the_bytes_of_a_run_are_told(
    warehouse: BigQueryWarehouse, emulator: Emulator, tmp_path: Path
) -> None:
    commit(warehouse, Epoch(0, "run", "backfill", NOW, NOW, 0, 0, 0, 0, NOW))
    warehouse.client.create_dataset(f"{warehouse.connection.prefix}_marts")
    for name in ("fct_scoring_candidates", "crm_pending"):
        warehouse.client.query(f"create table {warehouse.relation('marts', name)} as select 'u' as user_id").result()

    found = doctor(bigquery_settings(emulator, warehouse.connection.prefix, tmp_path)).findings

    assert named(found, "history").says == "1 epochs, watermark 2026-06-01 00:00 UTC"
    assert named(found, "bytes to sync").says.startswith("a run reads 0 bytes of marts.crm_pending, of the 1.0 TiB")


def test_without_credentials_nothing_else_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise DefaultCredentialsError("File /home/somebody/key.json was not found")

    monkeypatch.setattr(google.auth, "default", none)
    found = doctor(settings_in(tmp_path, warehouse="bigquery://shop/winback")).findings

    assert named(found, "credentials").says == "No Google credentials were found"
    assert {one.state for one in found if one.check in ("queries", "datasets", "tables", "history")} == {"skipped"}


def test_a_bigquery_out_of_reach_is_asked_once(warehouse: BigQueryWarehouse, emulator: Emulator) -> None:
    found = looked(warehouse, emulator, endpoint="http://127.0.0.1:9", retry_seconds=0.1)

    assert troubles(found) == {"queries": "failed"}
    assert "could not be reached" in named(found, "queries").says


# A DuckDB file


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and "crm.sqlite" not in path.name]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def examined(world: World, **changes: Any) -> tuple[Finding, ...]:
    reached: dict[str, Any] = {"crm_url": world.crm.url, "crm_api_key": SecretStr(API_KEY)}
    return doctor(settings_in(world.folder, **(reached | changes))).findings


def test_nothing_is_wrong_with_a_file_with_history_and_a_model(world: World) -> None:
    assert troubles(examined(world)) == {}


def test_not_a_byte_is_changed(world: World) -> None:
    before = contents(world.folder)
    examined(world)
    assert contents(world.folder) == before


def test_a_file_that_is_absent_is_not_made(tmp_path: Path) -> None:
    found = doctor(settings_in(tmp_path)).findings

    # Nobody has started the local CRM either.
    assert troubles(found) == {"model": "failed", "warehouse": "failed", "CRM": "warning"}
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_duckdb_file_is_told(world: World) -> None:
    (world.folder / "winback.duckdb").write_text("nothing of the kind")
    assert troubles(examined(world)) == {"warehouse": "failed"}


def test_a_file_that_a_run_holds_is_no_failure(world: World) -> None:
    code = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, str(world.folder / "winback.duckdb")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        found = examined(world)
        holder.communicate()

    assert troubles(found) == {"warehouse": "warning"}
    assert f"process {holder.pid}" in named(found, "warehouse").says


def test_a_table_of_an_earlier_version_is_told_with_the_statement_that_mends_it(world: World) -> None:
    world.query("alter table ops.reports drop column stopped_because")
    found = named(examined(world), "tables")
    assert found.says == "ops.reports has no column stopped_because"

    world.query(found.do[1])

    assert troubles(examined(world)) == {}


def test_a_renamed_file_is_told(world: World) -> None:
    (world.folder / "winback.duckdb").rename(world.folder / "other.duckdb")
    found = examined(world, warehouse=f"duckdb:///{world.folder / 'other.duckdb'}")
    assert named(found, "views").state == "failed"


def test_an_altered_model_is_told(world: World) -> None:
    model = next((world.folder / "models").glob("*/model.json"))
    model.write_text(model.read_text() + " ")

    found = examined(world)

    assert troubles(found) == {"model": "failed"}
    assert "model.json is missing or was altered" in named(found, "model").says


def test_every_wrong_file_is_told_and_the_rest_is_looked_at(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    for path in CONFIG.glob("*.yml"):
        (folder / path.name).write_text(path.read_text())
    (folder / "funnel.yml").write_text("completion_events: []")
    (folder / "vouchers.yml").unlink()

    found = examined(world, config=folder)

    assert troubles(found) == {"funnel.yml": "failed", "vouchers.yml": "failed"}
    assert named(found, "history").state == "ok"


def test_a_model_of_another_features_file_is_a_warning() -> None:
    now = load_contract(CONFIG / "features.yml")
    before = now.model_copy(update={"features": now.features[1:]})

    found = features(before, now)

    assert (found.state, found.do[1]) == ("warning", "winback train")
    assert now.features[0].name in found.says


def test_a_crm_elsewhere_with_the_local_key_is_told(world: World) -> None:
    local = Settings.model_fields["crm_api_key"].default
    found = named(examined(world, crm_url="https://rest.fra-01.braze.eu", crm_api_key=local), "CRM")
    assert (found.state, "WINBACK_CRM_API_KEY" in found.says) == ("failed", True)


# The command


def run(world: World, *arguments: str, **changes: str) -> Any:
    environment = {
        "WINBACK_WAREHOUSE": f"duckdb:///{world.folder / 'winback.duckdb'}",
        "WINBACK_MODELS": str(world.folder / "models"),
        "WINBACK_DBT_TARGET": str(world.folder / "dbt"),
        "WINBACK_CRM_URL": world.crm.url,
        "WINBACK_CRM_API_KEY": API_KEY,
        **changes,
    }
    return CliRunner().invoke(cli, ["doctor", *arguments], env=environment, standalone_mode=False)


def test_the_help_has_an_example_and_the_exit_codes(world: World) -> None:
    told = run(world, "--help").stdout

    assert "  winback doctor --json\n" in told
    assert "Exit codes: 0 nothing failed, 2" in told


def test_the_command_leaves_with_0_where_nothing_failed(world: World) -> None:
    done = run(world)

    assert done.exception is None
    assert "✓  history" in done.stdout
    assert done.stdout.endswith("Nothing to do.\n")


def test_the_command_leaves_with_2_and_numbers_what_to_do(world: World) -> None:
    (world.folder / "models" / "champion").unlink()
    done = run(world)

    assert (done.exception.exit_code, "these failed: model." in str(done.exception)) == (2, True)
    assert done.stdout.endswith("What to do\n1. Train one, once there is history:\n   winback train\n")


def test_the_command_prints_one_object(world: World) -> None:
    answer = json.loads(run(world, "--json").stdout)

    assert answer["count_failed"] == 0
    assert answer["findings"][1] == {"check": "funnel.yml", "state": "ok", "says": "can be used", "do": []}


def test_wrong_settings_are_a_finding(world: World) -> None:
    done = run(world, "--json", WINBACK_CRM_URL="ftp://canary")

    assert [(one["check"], one["state"]) for one in json.loads(done.stdout)["findings"]] == [("settings", "failed")]
    assert (done.exception.exit_code, "canary" in done.stdout) == (2, False)


def test_long_commands_are_printed_on_one_line(emulator: Emulator, world: World) -> None:
    done = run(
        world,
        WINBACK_WAREHOUSE=f"bigquery://{PROJECT}/nowhere",
        WINBACK_BIGQUERY_ENDPOINT=emulator.url,
        WINBACK_BIGQUERY_STORAGE_ENDPOINT=emulator.storage_endpoint,
        WINBACK_BIGQUERY_LOCATION="EU",
    )

    assert (
        "   bq --project_id=local --location=EU query --use_legacy_sql=false "
        "'GRANT `roles/bigquery.dataEditor` ON SCHEMA `local`.`nowhere_ops` TO \"serviceAccount:SERVICE_ACCOUNT\"'\n"
    ) in done.stdout
    assert APP_EVENTS.name not in done.stdout
