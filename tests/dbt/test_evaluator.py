"""Rules of the project evaluator: each one finds a project that breaks it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.dbt.project_evaluator import RULES, violations

Manifest = dict[str, Any]


def model(layer: str, name: str, *parents: str, **changes: Any) -> Manifest:
    return {
        "unique_id": f"model.shop.{name}",
        "resource_type": "model",
        "name": name,
        "fqn": ["shop", layer, name],
        "original_file_path": f"models/{layer}/{name}.sql",
        "depends_on": {"nodes": list(parents)},
        "raw_code": "select extract(hour from orders.sold_at) from {{ ref('orders') }} as orders -- from raw.orders",
        "description": "One row per order.",
        "columns": {"id": {"description": "The order's id."}},
        "access": "public" if layer == "marts" else "protected",
        "config": {"materialized": "table", "contract": {"enforced": layer == "marts"}},
        **changes,
    }


def source(name: str, **changes: Any) -> Manifest:
    return {
        "database": "shop",
        "schema": "raw",
        "identifier": name,
        "original_file_path": "models/staging/_raw__sources.yml",
        "source_description": "What the shop writes.",
        "description": "One row per order.",
        "columns": {"id": {"description": "The order's id."}},
        "freshness": {"warn_after": {"count": 30, "period": "minute"}},
        **changes,
    }


def data_test(name: str, tested: Manifest) -> Manifest:
    return {
        "resource_type": "test",
        "attached_node": tested["unique_id"],
        "test_metadata": {"name": name, "kwargs": {"column_name": "id"}},
        "original_file_path": tested["original_file_path"],
    }


RAW, STG, INT, FCT = "source.shop.raw.orders", "model.shop.stg_orders", "model.shop.int_orders", "model.shop.fct_orders"


def project(*models: Manifest, **sources: Manifest) -> Manifest:
    """Return a project that breaks no rule: orders from source to mart. The given models and sources are added or replaced."""
    chain = [
        model("staging", "stg_orders", RAW),
        model("intermediate", "int_orders", STG),
        model("marts", "fct_orders", INT),
    ]
    nodes = {node["unique_id"]: node for node in [*chain, *models]}
    tests = [data_test(name, node) for node in nodes.values() for name in ("unique", "not_null")]
    return {
        "nodes": {**nodes, **{f"test.{number}": test for number, test in enumerate(tests)}},
        "sources": {RAW: source("orders"), **{f"source.shop.raw.{name}": table for name, table in sources.items()}},
        "exposures": {"exposure.shop.report": {"depends_on": {"nodes": [FCT]}}},
    }


def without_test(name: str) -> Manifest:
    """Return the project whose mart lacks one of its tests."""
    manifest = project()
    wanted = data_test(name, model("marts", "fct_orders"))
    return {**manifest, "nodes": {key: node for key, node in manifest["nodes"].items() if node != wanted}}


def test_a_project_in_order_breaks_no_rule() -> None:
    assert violations(project()) == {}


VIEW = {"config": {"materialized": "view", "contract": {"enforced": True}}}
LINES = [f"model.shop.int_{number}" for number in range(7)]
BROKEN: dict[str, tuple[Manifest, set[str]]] = {
    "fct_direct_join_to_source": (project(model("marts", "fct_orders", INT, RAW)), {"fct_orders"}),
    "fct_marts_or_intermediate_dependent_on_source": (project(model("marts", "fct_orders", RAW)), {"fct_orders"}),
    "fct_staging_dependent_on_staging": (project(model("staging", "stg_lines", STG)), {"stg_lines"}),
    "fct_staging_dependent_on_marts_or_intermediate": (project(model("staging", "stg_lines", FCT)), {"stg_lines"}),
    "fct_multiple_sources_joined": (
        project(model("staging", "stg_orders", RAW, "source.shop.raw.runs"), runs=source("runs")),
        {"stg_orders"},
    ),
    "fct_root_models": (project(model("marts", "fct_orders")), {"fct_orders"}),
    "fct_model_fanout": (project(*(model("marts", f"fct_{number}", INT) for number in range(3))), {"int_orders"}),
    "fct_rejoining_of_upstream_concepts": (project(model("marts", "fct_orders", INT, STG)), {"int_orders"}),
    "fct_too_many_joins": (
        project(
            *(model("intermediate", key.split(".")[-1], STG) for key in LINES), model("marts", "fct_orders", *LINES)
        ),
        {"fct_orders"},
    ),
    "fct_hard_coded_references": (
        project(model("marts", "fct_orders", INT, raw_code="select 1\nfrom marts.lines as lines")),
        {"fct_orders"},
    ),
    "fct_duplicate_sources": (project(again=source("orders")), {"raw.again"}),
    "fct_source_fanout": (project(model("staging", "stg_lines", RAW)), {"raw.orders"}),
    "fct_unused_sources": (project(runs=source("runs")), {"raw.runs"}),
    "fct_missing_primary_key_tests": (without_test("unique"), {"fct_orders"}),
    "fct_test_coverage": (project() | {"nodes": {FCT: model("marts", "fct_orders", RAW)}}, {"fct_orders"}),
    "fct_sources_without_freshness": (project(runs=source("runs", freshness=None)), {"raw.runs"}),
    "fct_undocumented_models": (
        project(model("marts", "fct_orders", INT, columns={"id": {"description": ""}})),
        {"fct_orders"},
    ),
    "fct_undocumented_source_tables": (project(runs=source("runs", description="")), {"raw.runs"}),
    "fct_undocumented_sources": (project(runs=source("runs", source_description="")), {"raw.runs"}),
    "fct_model_naming_conventions": (project(model("marts", "orders", INT)), {"orders"}),
    "fct_source_directories": (
        project(runs=source("runs", original_file_path="models/marts/_raw__sources.yml")),
        {"raw.runs"},
    ),
    "fct_test_directories": (
        project()
        | {"unit_tests": {"u": {"depends_on": {"nodes": [FCT]}, "original_file_path": "models/staging/_u.yml"}}},
        {"fct_orders"},
    ),
    "fct_chained_views_dependencies": (
        project(
            model("staging", "stg_orders", RAW, **VIEW),
            model("intermediate", "int_0", STG, **VIEW),
            *(model("intermediate", f"int_{n}", LINES[n - 1], **VIEW) for n in range(1, 4)),
        ),
        {"int_3"},
    ),
    "fct_exposure_parents_materializations": (project(model("marts", "fct_orders", INT, **VIEW)), {"fct_orders"}),
    "fct_public_models_without_contract": (
        project(model("marts", "fct_orders", INT, config={"materialized": "table", "contract": {"enforced": False}})),
        {"fct_orders"},
    ),
    "fct_exposures_dependent_on_private_models": (
        project(model("marts", "fct_orders", INT, access="protected")),
        {"fct_orders"},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_names_what_breaks_it(rule: str) -> None:
    manifest, names = BROKEN[rule]

    assert violations(manifest).get(rule) == names


def test_one_test_of_a_key_does_for_both() -> None:
    manifest = without_test("unique")
    manifest["nodes"]["test.key"] = data_test("is_key", model("marts", "fct_orders"))
    assert violations(manifest) == {}


def test_a_key_needs_a_value_in_every_row() -> None:
    assert violations(without_test("not_null")) == {"fct_missing_primary_key_tests": {"fct_orders"}}
