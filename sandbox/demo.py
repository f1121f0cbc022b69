"""What does somebody see who has two minutes: events become scores and vouchers, and a CRM that follows them?"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from crm_sync.destinations.braze import Braze
from jobs.backfill import backfill
from jobs.hourly import hourly
from jobs.house import open_house
from jobs.narration import Silence, demo_narrator
from jobs.settings import read_settings
from jobs.training import train
from sandbox import DEFAULT_CRM, screens
from sandbox.crm_server import LocalCrm
from sandbox.replay import at_the_time
from sandbox.synthetic_app import generate
from warehouse.duckdb import DuckDBWarehouse
from warehouse.errors import ContractError
from warehouse.loading import load

STARTS_ON = date(2026, 4, 1)
COUNT_DAYS = 90
# A Sunday near the deadline, with a week of events left after it. The first run catches up the day that was missed, then hour
# follows hour.
BACKFILL_UNTIL = datetime(2026, 6, 21, 8, tzinfo=UTC)
CATCH_UP_HOURS = 24
API_KEY = "local-key"


def run_demo(*, count_users: int, count_hours: int, seed: int, is_quiet: bool = False) -> dict[str, Any]:
    """Run it in the default places, so that `winback status` and `winback crm` show it afterwards.

    Raises: ContractError when those places hold something that is not an earlier demo.
    """
    settings = read_settings()
    if settings.duckdb_file is None:
        raise ContractError("The demo works in a DuckDB file, never in BigQuery. Unset WINBACK_WAREHOUSE.")
    warehouse_file, models, folder = settings.duckdb_file, settings.models, settings.duckdb_file.parent / "demo"
    _clear(warehouse_file, models, DEFAULT_CRM, folder)
    console = Console(quiet=is_quiet)
    started = time.monotonic()
    voice = demo_narrator()

    voice.step("Making a synthetic tax app", users=count_users)
    app = generate(seed=seed, count_users=count_users, starts_on=STARTS_ON, count_days=COUNT_DAYS)
    app.write(folder)
    warehouse = DuckDBWarehouse(warehouse_file, memory_limit=settings.memory_limit)
    try:
        files = {name: folder / f"{name}.parquet" for name in ("events", "users", "redemptions")}
        ends_at = datetime.combine(STARTS_ON + timedelta(days=COUNT_DAYS), datetime.min.time(), UTC)
        load(warehouse, files, now=ends_at, advance=voice.progress("Loading", None))
    finally:
        warehouse.close()

    with LocalCrm(DEFAULT_CRM, api_key=API_KEY) as crm:
        with open_house(settings, narrator=voice, destination=Braze(crm.url, API_KEY)) as house:
            history = backfill(house, BACKFILL_UNTIL)
            trained = train(at_the_time(house, BACKFILL_UNTIL))
            quiet = replace(house, narrator=Silence())
            hours = []
            for n in range(count_hours + 1):
                until = BACKFILL_UNTIL + timedelta(hours=CATCH_UP_HOURS + n)
                voice.step(f"Running until {until:%d %B %H:%M}", until=until)
                hours.append(hourly(at_the_time(quiet, until), until))
            voice.step("Repeating the last hour", until=hours[-1].window_until)
            repeated = hourly(at_the_time(quiet, hours[-1].window_until), hours[-1].window_until)
        voice.close()
        segments = crm.store.segment_counts()
    seconds = time.monotonic() - started

    console.print(
        f"\n[bold]{app.events.num_rows:,} events[/] of {count_users:,} users made {history.count_sessions:,} sessions and "
        f"{history.count_exits:,} unfinished exits before {BACKFILL_UNTIL:%d %B %H:%M} UTC.\n"
        f"A model learned from the matured ones: [bold]AUC {trained.metrics['auc']:.3f}[/] on later exits "
        f"(calibration error {trained.metrics['calibration_error']:.3f}). Then a missed day, and hour by hour:\n",
        highlight=False,
    )
    console.print(screens.runs([*hours, repeated]))
    console.print()
    console.print(screens.segments(segments))
    ok = repeated.sync.requests == 0 and all(not h.stopped and not h.sync.rejected for h in hours)
    console.print(
        "\n[green]✓[/] The last hour, repeated, sent nothing."
        if ok
        else f"\n[red]✗[/] The last hour, repeated, sent {repeated.sync.delivered} users.",
        highlight=False,
    )
    console.print(f"\nIt took {seconds:.0f} s. Where to look now:", highlight=False)
    next_hour = hours[-1].window_until + timedelta(hours=1)
    for what, how in (
        ("The CRM's page, with segments, profiles and their history", "make crm"),
        ("The model's card", str(trained.folder / "card.html")),
        ("Watermark, last runs, what is pending", ".venv/bin/winback status"),
        # A replay's clock stands at the hour: a run by this machine's clock would know what the demo has still ahead of it.
        ("The next hour", f".venv/bin/winback replay --until {next_hour:%Y-%m-%dT%H:%M} --every 1"),
    ):
        console.print(f"  {what}\n    [bold]{how}[/]", highlight=False, soft_wrap=True)
    return {
        "ok": ok,
        "seconds": round(seconds, 1),
        "metrics": trained.metrics,
        "hours": [h.as_dict() for h in hours],
        "repeated": repeated.as_dict(),
        "segments": segments,
    }


def _clear(warehouse_file: Path, models: Path, crm: Path, folder: Path) -> None:
    """Remove an earlier demo; anything else stays and is named."""
    if not folder.is_dir() and any(p.exists() for p in (warehouse_file, models, crm)):
        raise ContractError(
            f"{warehouse_file.parent} holds data that no demo made. "
            "Move it, or set WINBACK_WAREHOUSE and WINBACK_MODELS elsewhere."
        )
    DuckDBWarehouse(warehouse_file).close()  # says who holds the file, if anybody does
    for path in (warehouse_file, warehouse_file.with_name(warehouse_file.name + ".wal")):
        path.unlink(missing_ok=True)
    for path in crm.parent.glob(crm.name + "*"):
        path.unlink()
    for path in (models, folder):
        shutil.rmtree(path, ignore_errors=True)
    folder.mkdir(parents=True)
