"""Rewrites the DuckDB file so that no byte of deleted rows remains in it."""

from __future__ import annotations

from core.errors import ContractError
from core.progress import ProgressReporter
from core.settings import Settings
from warehouse.duckdb.compact import Compacted
from warehouse.duckdb.compact import compact as write_anew


def compact(settings: Settings, reporter: ProgressReporter) -> Compacted:
    """Rewrite the DuckDB file.

    Raises: ContractError on BigQuery, which keeps deleted rows for its time travel; also as warehouse.duckdb.compact.
    """
    if settings.duckdb_file is None:
        raise ContractError(
            "BigQuery keeps deleted rows by time travel and fail-safe, and this cannot be shortened afterwards: "
            "docs/how-to/erase-a-user.md has the periods. winback compact is for a DuckDB file."
        )
    reporter.step("Rewriting the file")
    return write_anew(settings.duckdb_file, memory_limit=settings.memory_limit)
