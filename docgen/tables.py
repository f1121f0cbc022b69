"""Reference pages of the tables and their columns, from dbt's YAML and `warehouse/tables.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from docgen.markdown import code, page, table
from docgen.own_tables import OWN
from docgen.schemas import ROOT
from warehouse.tables import ALL, MIGRATIONS

LAYERS = {
    "raw": "Raw tables: the app's ingestion writes them, or `winback load`.",
    "ops": "Tables that the job writes, append-only. Readers join `ops.runs`: rows of a run that did not commit do not count.",
    "staging": "Views over the raw tables and the job's: renamed, typed, without erased users.",
    "intermediate": "Events, sessions and outcomes. These models may change with the code.",
    "marts": "Exits, features, the audience, the sync log and monitoring. Their columns are a contract.",
}
MODELS = ROOT / "dbt" / "models"


@dataclass(frozen=True)
class Described:
    """A table: its layer, its name, its description, and each column's name, type and description."""

    layer: str
    name: str
    description: str
    columns: tuple[tuple[str, str, str], ...]

    @property
    def grain(self) -> str:
        """The first sentence of the description."""
        return self.description.split(". ")[0].rstrip(".") + "."


def tables() -> list[Described]:
    """Return every table that dbt's YAML describes, by layer and name."""
    folders = {path.stem: path.relative_to(MODELS).parts[0] for path in MODELS.rglob("*.sql")}
    found = []
    for path in sorted(MODELS.rglob("*.yml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        found += [_described(folders[each["name"]], each) for each in document.get("models", []) if "columns" in each]
        for source in document.get("sources", []):
            layer = "ops" if source["name"] == "ops" else "raw"
            found += [_described(layer, each) for each in source["tables"]]
    found += _own({(each.layer, each.name) for each in found})
    order = list(LAYERS)
    return sorted(found, key=lambda each: (order.index(each.layer), each.name))


def _own(described: set[tuple[str, str]]) -> list[Described]:
    """Return the tables that Python writes and dbt does not describe.

    Raises: ValueError if `own_tables` describes other tables or columns than these.
    """
    missing = {table.name: table for table in (*ALL, MIGRATIONS) if (table.layer, table.name) not in described}
    columns = {name: [column.name for column in table.columns] for name, table in missing.items()}
    if columns != {name: list(meanings) for name, (_, meanings) in OWN.items()}:
        raise ValueError(f"docgen/own_tables.py must describe these tables and columns: {columns}")
    return [
        _described(
            missing[name].layer,
            {
                "name": name,
                "description": grain,
                "columns": [{"name": column, "description": text} for column, text in meanings.items()],
            },
        )
        for name, (grain, meanings) in OWN.items()
    ]


def _described(layer: str, each: dict[str, Any]) -> Described:
    written = {(t.layer, t.name): {c.name: (str(c.type), c.required) for c in t.columns} for t in (*ALL, MIGRATIONS)}
    types = written.get((layer, each["name"]), {})
    columns = tuple(
        (column["name"], _type(column, types), " ".join(str(column.get("description", "")).split()))
        for column in each.get("columns", [])
    )
    return Described(layer, each["name"], " ".join(str(each.get("description", "")).split()), columns)


def _type(column: dict[str, Any], types: dict[str, tuple[str, bool]]) -> str:
    if column["name"] in types:
        arrow, is_required = types[column["name"]]
        plain = {"string": "text", "int64": "integer", "double": "number", "bool": "boolean"}
        return plain.get(arrow, "time") + ("" if is_required else ", may be null")
    kind = str(column.get("data_type", ""))
    kind = "double" if "'double'" in kind else kind
    plain = {"string": "text", "int64": "integer", "bigint": "integer", "double": "number", "timestamp": "time"}
    return plain.get(kind, kind)


def index_page() -> str:
    """Return the page that lists every table with its grain."""
    parts = [
        "Every table of the warehouse, by layer. The first sentence of a description states the grain: what one row is.\n"
        "Times are UTC. On DuckDB a layer is a schema, such as `marts`; on BigQuery it is a dataset, such as\n"
        "`winback_marts`. `make docs` shows the same tables with their lineage."
    ]
    for layer, words in LAYERS.items():
        rows = [(f"[`{t.name}`]({layer}.md#{t.name})", t.grain) for t in tables() if t.layer == layer]
        parts += [f"## {layer}", words, table(("table", "grain"), rows)]
    return page("Tables", *parts)


def layer_page(layer: str) -> str:
    """Return the page of a layer: each table with its columns."""
    parts = [LAYERS[layer]]
    for each in tables():
        if each.layer == layer:
            rows = [(code(name), kind, text) for name, kind, text in each.columns]
            parts += [f"## {each.name}", each.description]
            parts += [table(("column", "type", "meaning"), rows)] if rows else []
    return page(f"Tables of {layer}", *parts)


def source_files() -> list[Path]:
    """Return dbt's YAML files."""
    return sorted(MODELS.rglob("*.yml"))
