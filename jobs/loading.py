"""How do files come into the raw tables from the command line?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jobs.house import utc_now
from jobs.narration import Narrator
from jobs.profile_coverage import coverage_of_events
from jobs.settings import Settings
from jobs.watermark import stale
from warehouse import ledger
from warehouse.duckdb import DuckDBWarehouse
from warehouse.errors import ContractError
from warehouse.loading import Loaded, load


def load_files(settings: Settings, files: Mapping[str, Path], voice: Narrator) -> dict[str, Loaded]:
    """Load files into the embedded warehouse; see warehouse.loading."""
    if settings.duckdb_file is None:
        raise ContractError(
            "winback load fills a DuckDB file. On BigQuery the app's ingestion writes the raw tables; "
            "files go in with: bq load --source_format=PARQUET"
        )
    warehouse = DuckDBWarehouse(settings.duckdb_file, memory_limit=settings.memory_limit)
    try:
        warehouse.prepare()
        last, now = ledger.last_epoch(warehouse), utc_now()
        ledger.refuse_ahead(last, now)
        if old := stale(last, now, settings.max_watermark_age_seconds):
            voice.warn(old)
        watermark = last.window_until if last else None
        total = sum(path.stat().st_size for path in files.values() if path.is_file())
        loaded = load(warehouse, files, now=now, watermark=watermark, advance=voice.progress("Loading", total))
        if warning := coverage_of_events(warehouse).warning:
            voice.warn(warning)
        return loaded
    finally:
        warehouse.close()
