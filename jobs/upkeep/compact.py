"""Leaves no byte of deleted rows in the warehouse, where that is in our hands."""

from __future__ import annotations

from core.errors import ContractError
from core.progress import ProgressReporter
from core.settings import Settings
from warehouse.duckdb.compact import Compacted
from warehouse.duckdb.compact import compact as write_anew


def compact(settings: Settings, reporter: ProgressReporter) -> Compacted:
    """Write the DuckDB file anew.

    Raises: ContractError on BigQuery, which keeps deleted rows for its time travel; and as `duckdb_compact.compact`.
    """
    if settings.duckdb_file is None:
        raise ContractError(
            "BigQuery keeps deleted rows by time travel and fail-safe, and nothing shortens that afterwards: "
            "docs/erasure.md says how long. winback compact is for a DuckDB file."
        )
    reporter.step("Writing the file anew")
    return write_anew(settings.duckdb_file, memory_limit=settings.memory_limit)
