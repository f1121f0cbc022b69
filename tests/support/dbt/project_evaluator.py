"""Checks a project's manifest against the rules of dbt-project-evaluator.

The package itself is installed by `dbt deps`, over the network. These are its rules under its names, with its default limits:
https://dbt-labs.github.io/dbt-project-evaluator/latest/rules/
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

Node = Mapping[str, Any]

_PREFIXES = {"staging": ("stg_",), "intermediate": ("int_",), "marts": ("fct_", "dim_", "crm_")}
_LEAF_CHILDREN, _CHAINED_VIEWS, _JOINS = 3, 5, 7
_NOT_SQL = re.compile(
    r"{{.*?}}|{%.*?%}|{#.*?#}|--[^\n]*|\bextract\s*\([^)]*\)|\bdistinct from\b", re.DOTALL | re.IGNORECASE
)
_LITERAL_TABLE = re.compile(r"\b(?:from|join)\s+[`\"\w-]+\.[`\"\w-]+", re.IGNORECASE)


class Project:
    """The manifest as a graph. Nodes are identified by unique ids; tests are not in the graph."""

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        nodes: list[Node] = list(manifest["nodes"].values())
        self.models = {n["unique_id"]: n for n in nodes if n["resource_type"] == "model"}
        self.tests = [n for n in nodes if n["resource_type"] == "test" and n.get("attached_node")]
        self.unit_tests: list[Node] = list(manifest.get("unit_tests", {}).values())
        self.sources: dict[str, Node] = dict(manifest["sources"])
        self.exposures: dict[str, Node] = dict(manifest["exposures"])
        consumers = {**self.models, **self.exposures}
        self.parents = {key: set(node["depends_on"]["nodes"]) for key, node in consumers.items()}
        known = {**self.sources, **self.models}
        self.children = {key: {child for child in consumers if key in self.parents[child]} for key in known}
        self.of_exposures = {parent for key in self.exposures for parent in self.parents[key]}

    def layer(self, key: str) -> str:
        """Return the folder of a model under models/; `source` for a source."""
        return "source" if key in self.sources else str(self.models[key]["fqn"][1]) if key in self.models else ""

    def above(self, key: str, *layers: str) -> set[str]:
        """Return direct parents in these layers."""
        return {parent for parent in self.parents[key] if self.layer(parent) in layers}

    def views_in_a_row(self, key: str) -> int:
        """Return the length of the longest chain of views that reading this one needs; 0 for a table."""
        node = self.models.get(key)
        if not node or node["config"]["materialized"] != "view":
            return 0
        return 1 + max((self.views_in_a_row(parent) for parent in self.parents[key]), default=0)

    def has_key(self, key: str) -> bool:
        """Whether a column, or an expression of several, is tested as a unique and not-null key."""
        tested: dict[str, set[str]] = {"is_key": set(), "unique": set(), "not_null": set()}
        for test in self.tests:
            if test["attached_node"] == key and test["test_metadata"]["name"] in tested:
                tested[test["test_metadata"]["name"]].add(str(test["test_metadata"]["kwargs"].get("column_name")))
        return bool(tested["is_key"]) or any(
            "(" in column or column in tested["not_null"] for column in tested["unique"]
        )


Rule = Callable[[Project], Iterable[str]]
_IN_STAGING = ("staging",)
_ABOVE_STAGING = ("intermediate", "marts")


def _models(broken: Callable[[Project, str], object]) -> Rule:
    return lambda project: [key for key in project.models if broken(project, key)]


def _sources(broken: Callable[[Project, str], object]) -> Rule:
    return lambda project: [key for key in project.sources if broken(project, key)]


def _is_described(node: Node) -> bool:
    return bool(node["description"]) and all(column["description"] for column in node["columns"].values())


def _misplaced_tests(project: Project) -> Iterable[str]:
    tests = [(test["attached_node"], test) for test in project.tests]
    tests += [(parent, test) for test in project.unit_tests for parent in test["depends_on"]["nodes"][:1]]
    for key, test in tests:
        node = {**project.sources, **project.models}.get(key)
        if (
            node
            and PurePosixPath(test["original_file_path"]).parent != PurePosixPath(node["original_file_path"]).parent
        ):
            yield key


def _rejoined(project: Project) -> Iterable[str]:
    """Yield models whose only reader also reads the model's own parent: the two could be one."""
    for key in project.models:
        readers = project.children[key] & project.models.keys()
        if len(readers) == 1 and project.parents[key] & project.parents[readers.pop()]:
            yield key


def _duplicates(project: Project) -> Iterable[str]:
    seen: dict[tuple[str, str, str], str] = {}
    for key, source in project.sources.items():
        first = seen.setdefault((source["database"], source["schema"], source["identifier"]), key)
        if first != key:
            yield key


def _leaves(project: Project, key: str) -> int:
    return sum(child in project.models and not project.children[child] for child in project.children[key])


def _has_freshness(source: Node) -> bool:
    limits = source.get("freshness") or {}
    return any((limits.get(name) or {}).get("count") for name in ("warn_after", "error_after"))


RULES: dict[str, Rule] = {
    # the graph
    "fct_direct_join_to_source": _models(lambda p, k: p.above(k, "source") and p.parents[k] - p.above(k, "source")),
    "fct_marts_or_intermediate_dependent_on_source": _models(
        lambda p, k: p.layer(k) in _ABOVE_STAGING and p.above(k, "source")
    ),
    "fct_staging_dependent_on_staging": _models(lambda p, k: p.layer(k) == "staging" and p.above(k, *_IN_STAGING)),
    "fct_staging_dependent_on_marts_or_intermediate": _models(
        lambda p, k: p.layer(k) == "staging" and p.above(k, *_ABOVE_STAGING)
    ),
    "fct_multiple_sources_joined": _models(lambda p, k: len(p.above(k, "source")) > 1),
    "fct_root_models": _models(lambda p, k: not p.parents[k]),
    "fct_model_fanout": _models(lambda p, k: _leaves(p, k) >= _LEAF_CHILDREN),
    "fct_rejoining_of_upstream_concepts": _rejoined,
    "fct_too_many_joins": _models(lambda p, k: len(p.parents[k]) >= _JOINS),
    "fct_hard_coded_references": _models(
        lambda p, k: _LITERAL_TABLE.search(_NOT_SQL.sub(" ", p.models[k]["raw_code"]))
    ),
    "fct_duplicate_sources": _duplicates,
    "fct_source_fanout": _sources(lambda p, k: len(p.children[k]) > 1),
    "fct_unused_sources": _sources(lambda p, k: not p.children[k]),
    # tests
    "fct_missing_primary_key_tests": _models(lambda p, k: not p.has_key(k)),
    "fct_test_coverage": _models(lambda p, k: all(test["attached_node"] != k for test in p.tests)),
    "fct_sources_without_freshness": _sources(lambda p, k: not _has_freshness(p.sources[k])),
    # documentation
    "fct_undocumented_models": _models(lambda p, k: not _is_described(p.models[k])),
    "fct_undocumented_source_tables": _sources(lambda p, k: not _is_described(p.sources[k])),
    "fct_undocumented_sources": _sources(lambda p, k: not p.sources[k]["source_description"]),
    # structure
    "fct_model_naming_conventions": _models(
        lambda p, k: not str(p.models[k]["name"]).startswith(_PREFIXES.get(p.layer(k), ("?",)))
    ),
    "fct_source_directories": _sources(lambda p, k: "/staging/" not in p.sources[k]["original_file_path"]),
    "fct_test_directories": _misplaced_tests,
    # performance
    "fct_chained_views_dependencies": _models(lambda p, k: p.views_in_a_row(k) >= _CHAINED_VIEWS),
    "fct_exposure_parents_materializations": lambda p: [
        key
        for key in p.of_exposures
        if key in p.sources or p.models[key]["config"]["materialized"] not in ("table", "incremental")
    ],
    # governance
    "fct_public_models_without_contract": _models(
        lambda p, k: p.models[k]["access"] == "public" and not p.models[k]["config"]["contract"]["enforced"]
    ),
    "fct_exposures_dependent_on_private_models": lambda p: [
        key for key in p.of_exposures if key in p.models and p.models[key]["access"] != "public"
    ],
}


def violations(manifest: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return the names of the models and sources that break a rule, by rule; a source's table as `source.table`."""
    project = Project(manifest)
    found = {rule: {_name(key) for key in broken(project)} for rule, broken in RULES.items()}
    return {rule: names for rule, names in found.items() if names}


def _name(key: str) -> str:
    kind, _, *rest = key.split(".")
    return ".".join(rest) if kind == "source" else rest[0]
