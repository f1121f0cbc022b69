"""The dbt profile: target, credentials and limits for each warehouse address. Nothing connects to a warehouse."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from dbt.cli.main import dbtRunner
from dbt.config.runtime import load_profile
from dbt.flags import set_from_args
from dbt_common.context import set_invocation_context

from tests.support.dbt.on_bigquery import record
from tests.support.dbt.on_duckdb import PROJECT

Manifest = dict[str, Any]
BIGQUERY, LOCAL = "bigquery://shop/winback", "http://127.0.0.1:9050"


@pytest.mark.parametrize(
    ("environment", "asked", "expected"),
    [
        ({}, None, ("duckdb", None, "main", None, None, None)),
        ({"WINBACK_WAREHOUSE": "duckdb:///a.duckdb"}, None, ("duckdb", None, "main", None, None, None)),
        ({"WINBACK_WAREHOUSE": BIGQUERY}, None, ("bigquery", "oauth", "winback", None, None, 1024**4)),
        ({"WINBACK_WAREHOUSE": "bigquery://shop"}, None, ("bigquery", "oauth", "winback", None, None, 1024**4)),
        (
            {"WINBACK_WAREHOUSE": BIGQUERY, "WINBACK_BIGQUERY_LOCATION": "EU", "WINBACK_BIGQUERY_MAX_BYTES": "5"},
            None,
            ("bigquery", "oauth", "winback", None, "EU", 5),
        ),
        (
            {"WINBACK_WAREHOUSE": BIGQUERY, "WINBACK_BIGQUERY_ENDPOINT": "https://bigquery.example"},
            None,
            ("bigquery", "oauth", "winback", "https://bigquery.example", None, 1024**4),
        ),
        (
            {"WINBACK_WAREHOUSE": BIGQUERY, "WINBACK_BIGQUERY_ENDPOINT": LOCAL, "WINBACK_BIGQUERY_LOCATION": ""},
            None,
            ("emulator", "oauth-secrets", "winback", LOCAL, None, 1024**4),
        ),
        (
            {"WINBACK_WAREHOUSE": BIGQUERY, "USER": "First.Last"},
            "dev",
            ("dev", "oauth", "dev_first_last", None, None, 10 * 1024**3),
        ),
    ],
)
def test_the_warehouse_decides_the_target(
    environment: dict[str, str], asked: str | None, expected: tuple[str | int | None, ...]
) -> None:
    set_invocation_context(environment)
    set_from_args(Namespace(PROFILES_DIR=str(PROJECT)), None)

    profile = load_profile(str(PROJECT), {}, target_override=asked)

    found = profile.credentials.to_dict(omit_none=False)
    names = ("method", "schema", "api_endpoint", "location", "maximum_bytes_billed")
    assert (profile.target_name, *(found.get(name) for name in names)) == expected


def test_dev_writes_into_datasets_of_ones_own_and_reads_productions_raw_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINBACK_WAREHOUSE", BIGQUERY)
    monkeypatch.setenv("USER", "First.Last")

    manifest = parsed_for_bigquery(tmp_path, "--target", "dev")

    assert {node["schema"] for node in models(manifest)} == {
        "dev_first_last_staging",
        "dev_first_last_intermediate",
        "dev_first_last_marts",
    }
    assert {source["schema"] for source in manifest["sources"].values()} == {"winback_raw", "winback_ops"}


def test_what_leaves_the_project_on_bigquery_has_contracts_and_descriptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WINBACK_WAREHOUSE", BIGQUERY)

    manifest = parsed_for_bigquery(tmp_path)

    marts = [node for node in models(manifest) if node["access"] == "public"]
    assert {node["config"]["contract"]["enforced"] for node in marts} == {True}
    assert {tuple(node["config"]["persist_docs"].items()) for node in models(manifest)} == {
        (("relation", True), ("columns", True))
    }


def models(manifest: Manifest) -> list[dict[str, Any]]:
    return [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]


def parsed_for_bigquery(folder: Path, *arguments: str) -> Manifest:
    places = ("--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT), "--target-path", str(folder))
    answer = dbtRunner().invoke(["parse", *arguments, *places, "--log-path", str(folder), "--log-level", "none"])
    assert answer.success, answer.exception
    return json.loads((folder / "manifest.json").read_text())  # type: ignore[no-any-return]


def test_a_job_on_bigquery_is_labelled_with_its_model_and_says_nothing_of_users(tmp_path: Path) -> None:
    recording = record(tmp_path, "run", "--select", "int_outcomes", from_at="2026-03-10 10:00:00")

    comments = [re.findall(r"/\* (.*?) \*/", statement.sql, re.DOTALL) for statement in recording.statements]
    labels = [json.loads(found[0]) for found in comments if found]
    model = {"node_id": "model.winback.int_outcomes", "node_name": "int_outcomes"}
    assert {"app": "winback", "target_name": "bigquery", **model} in labels
    assert {frozenset(label) for label in labels} == {frozenset(["app", "target_name", *model])}


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({}, "../var/winback.duckdb"),
        ({"WINBACK_WAREHOUSE": "duckdb:///var/winback.duckdb"}, "../var/winback.duckdb"),
        ({"WINBACK_WAREHOUSE": "duckdb:////data/winback.duckdb"}, "/data/winback.duckdb"),
    ],
)
def test_a_relative_file_is_relative_to_the_repository_as_for_the_job(environment: dict[str, str], path: str) -> None:
    set_invocation_context(environment)
    set_from_args(Namespace(PROFILES_DIR=str(PROJECT)), None)
    assert load_profile(str(PROJECT), {}).credentials.path == path
