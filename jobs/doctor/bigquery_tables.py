"""Findings about BigQuery tables: columns, partitions, and columns of a later version. Pure functions."""

from __future__ import annotations

from jobs.doctor.finding import Finding, check_winback_tables, compare, size
from jobs.doctor.remediation import BigQueryCommands
from warehouse.bigquery.facts import Facts, Refusal, TableFacts
from warehouse.tables import ALL, RAW, Table

_DOLLARS_PER_TIB = 6.25  # on demand in the US: https://cloud.google.com/bigquery/pricing
_HOURS_PER_MONTH = 730


def findings_of_tables(facts: Facts, wanted: BigQueryCommands, known: str) -> list[Finding]:
    """Return the findings on the app's tables and winback's own; `known` is the location of the datasets."""
    names = {table.title: table for table in RAW.values()}
    raw = [_raw(facts.tables[name], table, wanted, known) for name, table in names.items() if name in facts.tables]
    return [*raw, *_kept_by_day(facts, wanted), *_ops(facts)]


def _raw(facts: TableFacts | Refusal, table: Table, wanted: BigQueryCommands, known: str) -> Finding:
    """Check a table of the app, which winback only reads."""
    check = table.title
    if isinstance(facts, Refusal):
        if facts.kind == "missing":
            return Finding(
                check,
                "failed",
                "the table does not exist",
                ("The app's ingestion must write it; or create it:", wanted.make(table)),
            )
        if facts.kind == "denied":
            return Finding(
                check, "failed", "access to the table is denied", ("Grant it:", wanted.grant_on("raw", known))
            )
        return Finding(check, "failed", facts.says)
    columns = compare(facts.types, facts.wanted)
    if columns.says:
        do = (
            "Change the ingestion to write these columns, or replace the table by a view of that name that has them.",
        )
        return Finding(check, "failed", f"the table {columns.says}", do)
    return Finding(check, "ok", f"its columns are as expected, {size(facts.count_bytes)}")


def _kept_by_day(facts: Facts, wanted: BigQueryCommands) -> list[Finding]:
    """Check that tables that grow with time are partitioned, so that a run reads only its days."""
    found = []
    for table in ALL:
        there = facts.tables.get(table.title)
        if table.partition_on and isinstance(there, TableFacts):
            found.append(_partitions(there, table, wanted))
    return found


def _partitions(facts: TableFacts, table: Table, wanted: BigQueryCommands) -> Finding:
    check, name = f"{table.title} by day", wanted.table(table.layer, table.name)
    if facts.kind != "TABLE":
        kind = facts.kind.lower().replace("_", " ")
        why = f"not checked, because it is a {kind}. The table that it reads should be partitioned by day"
        return Finding(check, "skipped", why)
    if facts.partition_on != table.partition_on or facts.partition_by not in ("DAY", "HOUR"):
        return _unpartitioned(check, facts, table, wanted)
    says, do = [], []
    if not facts.is_filter_required:
        says.append("no partition filter is required, so a query may read all of history by mistake")
        do.append(f"ALTER TABLE {name} SET OPTIONS (require_partition_filter = TRUE);")
    if "user_id" not in facts.clustered_by:
        says.append("not clustered by user_id, so looking up a run's users reads the whole of each day")
        plain = f"{wanted.project}:{wanted.dataset(table.layer)}.{table.name}"
        do.append(f"bq update --clustering_fields=user_id {plain}")
    if says:
        return Finding(check, "warning", f"partitioned by day, but {'; '.join(says)}", ("Change it in place:", *do))
    return Finding(
        check, "ok", f"partitioned by the day of {table.partition_on}, filter required, clustered by user_id"
    )


def _unpartitioned(check: str, facts: TableFacts, table: Table, wanted: BigQueryCommands) -> Finding:
    monthly = facts.count_bytes / (1 << 40) * _DOLLARS_PER_TIB * _HOURS_PER_MONTH
    says = (
        f"not partitioned by the day of {table.partition_on}: every run reads all of it, now up to {size(facts.count_bytes)}; "
        f"on demand about {monthly:,.2f} US dollars a month, and more as it grows"
    )
    name = wanted.table(table.layer, table.name)
    do = (
        "Copy it into a table partitioned by day, and let the ingestion write there. Then give it the old table's name:",
        wanted.make(table, filled_from=name),
        f"ALTER TABLE {name} RENAME TO {table.name}_unpartitioned;",
        f"ALTER TABLE {wanted.table(table.layer, table.name + '_by_day')} RENAME TO {table.name};",
    )
    return Finding(check, "warning", says, do)


def _ops(facts: Facts) -> list[Finding]:
    if not isinstance(facts.locations.get("ops"), str):
        return []
    names = [table.title for table in ALL if table.layer == "ops"]
    found = {name: one for name in names if isinstance(one := facts.tables.get(name), TableFacts)}
    refused = [one for name in names if isinstance(one := facts.tables.get(name), Refusal) and one.kind != "missing"]
    if refused:
        return [Finding("tables of ops", "failed", refused[0].says)]
    return [
        check_winback_tables(
            "tables of ops", {name: compare(one.types, one.wanted) for name, one in found.items()}, names
        )
    ]
