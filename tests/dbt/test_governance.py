"""Governance of the dbt project: owners, access, freshness, descriptions, and protection against a full refresh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.support.dbt.on_duckdb import MODELS, PROJECT, artifact, invoke, prepare_empty, run
from tests.support.dbt.project_evaluator import violations

Manifest = dict[str, Any]

REASONS = {
    "fct_multiple_sources_joined": {
        # Each of these excludes erased users where the data is read.
        "stg_app__events",
        "stg_app__users",
        "stg_app__voucher_redemptions",
        "stg_ops__decisions",  # also, a decision counts only if its run committed
        "stg_ops__shadow_scores",  # the same
        "stg_ops__deliveries",
    },
    "fct_source_fanout": {
        "ops.erasures",  # as above
        "ops.runs",
        "app.app_events",  # fct_arrivals counts the rows that the staging view drops
    },
    "fct_direct_join_to_source": {"fct_arrivals"},  # the same
    "fct_marts_or_intermediate_dependent_on_source": {"fct_arrivals"},  # the same
    "fct_too_many_joins": {"fct_scoring_candidates"},  # it joins all inputs of a decision
    "fct_test_coverage": {"stg_app__events"},  # odd rows are dropped and counted, so fewer tests are needed
    "fct_rejoining_of_upstream_concepts": {
        "int_sessions_this_run",  # computed once, for current sessions and for those that ceased to exist
        "fct_exit_features",  # as known today; fct_exit_features_logged keeps them as known at the exit
        "int_users_set_aside",  # its rules compare exits with their sessions, features and outcomes
    },
    "fct_missing_primary_key_tests": {
        "stg_app__events",
        "stg_ops__deliveries",  # attempts, as in the next two: a user may have two in a run
        "crm_sync_attempts",
        "crm_sync_rejections",  # grouped by its key
        "int_users_set_aside",  # select distinct
        "stg_app__voucher_redemptions",  # may be repeated; the test repeats_are_few applies
    },  # events may be delivered twice
    "fct_sources_without_freshness": {
        "app.users",  # an hour without profile changes is normal
        "app.voucher_redemptions",  # rare
        "ops.runs",  # the job's own tables; `winback status` reports a late job
        "ops.decisions",
        "ops.shadow_scores",
        "ops.deliveries",
        "ops.erasures",
        "ops.reports",
    },
    "fct_exposure_parents_materializations": {
        "crm_pending"
    },  # every delivery changes it, and a run reads it once or twice
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_empty(tmp_path_factory.mktemp("dbt"))


@pytest.fixture(scope="module")
def manifest(database: Path) -> Manifest:
    return artifact(database, "manifest.json")


def models(manifest: Manifest) -> dict[str, Any]:
    return {node["name"]: node for node in manifest["nodes"].values() if node["resource_type"] == "model"}


def test_the_project_keeps_the_rules_of_the_evaluator_but_for_a_reason(manifest: Manifest) -> None:
    assert violations(manifest) == REASONS


def test_every_model_has_an_owner_and_only_what_leaves_the_project_is_public(manifest: Manifest) -> None:
    by_name = models(manifest)

    assert {node["group"] for node in by_name.values()} == {group["name"] for group in manifest["groups"].values()}
    assert {name for name, node in by_name.items() if node["access"] == "public"} == {
        path.stem for path in PROJECT.glob("models/marts/**/*.sql")
    }
    assert {name for name, node in by_name.items() if node["access"] == "private"} == {
        "int_sessions_this_run",
        "int_exits_this_run",
    }


def test_the_catalog_has_every_model_with_every_column_described(database: Path) -> None:
    answer = invoke(database, "docs", "generate", "--static")
    nodes = artifact(database, "catalog.json")["nodes"]
    described = {name: set(node["columns"]) for name, node in models(artifact(database, "manifest.json")).items()}

    assert answer.success
    assert {key.split(".")[-1]: set(node["columns"]) for key, node in nodes.items()} == described
    assert set(described) == MODELS
    assert (database.parent / "target" / "static_index.html").stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("minutes", "status"), [(0, "pass"), (45, "warn"), (90, "error"), (3 * 24 * 60, "error"), (None, "error")]
)
def test_arrivals_are_stale_after_half_an_hour_and_an_error_after_one(
    database: Path, minutes: int | None, status: str
) -> None:
    with duckdb.connect(str(database)) as connection:
        connection.execute("delete from raw.app_events")
        connection.execute(
            """insert into raw.app_events (event_id, user_id, event_name, occurred_at, loaded_at)
            select 'e', 'u', 'app_opened', moment, moment
            from (select make_timestamp(epoch_us(now())) - to_minutes($minutes) as moment)
            where moment is not null""",
            {"minutes": minutes},
        )

    answer = invoke(database, "source", "freshness")

    results = [result for result in answer.result.results if result.node.resource_type == "source"]
    assert {result.node.name: str(result.status) for result in results} == {"app_events": status}


def test_a_full_refresh_is_refused_unless_allowed(database: Path) -> None:
    refused = invoke(database, "build", "--full-refresh", "--select", "fct_exit_features_logged", "--empty")

    assert not refused.success
    assert "--full-refresh is refused, because it would overwrite fct_exit_features_logged" in str(refused.exception)
    run(database, "run", "--full-refresh", "--select", "int_users_touched", "--empty", allow_full_refresh=True)
