"""Builders for tests of the doctor: facts of a BigQuery without problems, and the findings that report problems."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jobs.doctor.finding import Finding
from jobs.doctor.remediation import BigQueryCommands
from warehouse.bigquery.facts import LAYERS, Facts, Granted, Login, Refusal, TableFacts
from warehouse.tables import ALL

TYPES = {"string": "STRING", "double": "FLOAT64", "int64": "INT64", "bool": "BOOL"}
WANTED = BigQueryCommands("shop", "winback", location="", max_bytes_billed=1 << 40)
ALL_RIGHTS = frozenset({"bigquery.jobs.create", "bigquery.readsessions.create", "bigquery.datasets.create"})
DENIED = Refusal("denied", "BigQuery refused because a permission is missing.")
MISSING = Refusal("missing", "A dataset or table is missing.")
RAW_GRANT = (
    "bq --project_id=shop --location=EU query --use_legacy_sql=false "
    "'GRANT `roles/bigquery.dataViewer` ON SCHEMA `shop`.`winback_raw` TO \"serviceAccount:SERVICE_ACCOUNT\"'"
)


def kept(table: Any) -> TableFacts:
    """Facts of a table as this version creates it."""
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
    """Return the findings that are neither ok nor skipped."""
    return {one.check: one.state for one in found if one.state in ("warning", "failed")}


def named(found: list[Finding] | tuple[Finding, ...], check: str) -> Finding:
    return next(one for one in found if one.check == check)
