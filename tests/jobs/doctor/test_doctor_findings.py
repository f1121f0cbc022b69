"""Findings about a BigQuery project: each problem is reported with its remedy, and nothing else is reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.doctor.bigquery import findings
from jobs.doctor.finding import size
from tests.support.builders.doctor import (
    DENIED,
    MISSING,
    RAW_GRANT,
    READ,
    SOUND,
    WANTED,
    kept,
    named,
    troubles,
    with_table,
    without_column,
)
from warehouse.bigquery.facts import Facts, Granted, Login, Refusal
from warehouse.tables import ALL


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
            "BigQuery is not enabled in the project",
            "gcloud services enable bigquery.googleapis.com",
        ),
        (replace(SOUND, queries=MISSING), "queries", "failed", "the project shop does not exist", "WINBACK_WAREHOUSE"),
        (
            replace(SOUND, locations=SOUND.locations | {"raw": MISSING}),
            "dataset winback_raw",
            "failed",
            "does not exist",
            "bq --location=EU mk --dataset shop:winback_raw",
        ),
        (
            replace(SOUND, locations=SOUND.locations | {"raw": DENIED}),
            "dataset winback_raw",
            "failed",
            "access is denied",
            RAW_GRANT,
        ),
        (
            replace(SOUND, locations=SOUND.locations | {"ops": MISSING, "marts": MISSING}, project=frozenset[str]()),
            "datasets to come",
            "failed",
            "they do not exist, and the job may not create them: winback_ops, winback_marts",
            "bq --location=EU mk --dataset shop:winback_marts",
        ),
        (
            replace(SOUND, locations=SOUND.locations | {"ops": MISSING}, project=Refusal("unasked", "")),
            "datasets to come",
            "warning",
            "they do not exist, and whether the job may create them cannot be checked here: winback_ops",
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
            "winback migrate",
        ),
        (
            # 1 TiB an hour, 730 hours a month, 6.25 dollars per TiB
            with_table("raw.app_events", partition_on=None, partition_by=None),
            "raw.app_events by day",
            "warning",
            "now up to 1.0 TiB; on demand about 4,562.50 US dollars a month",
            "CREATE TABLE `shop`.`winback_raw`.`app_events_by_day` PARTITION BY DATE(loaded_at) "
            "CLUSTER BY user_id OPTIONS (require_partition_filter = TRUE) AS SELECT * FROM `shop`.`winback_raw`.`app_events`;",
        ),
        (
            with_table("raw.app_events", partition_by="MONTH"),
            "raw.app_events by day",
            "warning",
            "not partitioned by the day",
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
            "bigquery.tables.getData is missing (checked on users)",
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
        ({"location": "US"}, "location", "failed", "WINBACK_BIGQUERY_LOCATION is US, and the datasets are in EU"),
        ({"endpoint": "https://bigquery.internal"}, "endpoints", "warning", "WINBACK_BIGQUERY_STORAGE_ENDPOINT is not"),
        (
            {
                "endpoint": "https://bigquery.us-east4.rep.googleapis.com",
                "storage_endpoint": "bigquerystorage.us-east4.rep.googleapis.com:443",
            },
            "endpoints",
            "failed",
            "serves us-east4, and the datasets are in EU",
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
    assert named(found, "permissions on winback_raw").says == "cannot be checked here"
    assert "If a run is denied access there, grant:" in named(found, "permissions on winback_ops").do


def test_sizes_are_told_as_a_person_reads_them() -> None:
    assert [size(n) for n in (0, 1023, 1 << 20, 1 << 50)] == ["0 bytes", "1,023 bytes", "1.0 MiB", "1,024.0 TiB"]
