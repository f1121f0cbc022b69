"""Demo: turns synthetic events into scores and vouchers, and writes them to a local CRM, in two minutes."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from rich.console import Console

from core.progress import NullProgress, ProgressReporter, demo_narrator
from core.settings import Settings, read_settings
from crm_sync.destinations.braze import Braze
from jobs.context import open_context
from jobs.hourly.run import Result, hourly
from jobs.models.train import Registered, train
from jobs.upkeep.backfill import Backfilled, backfill
from jobs.upkeep.demo_mark import DemoMark, write_mark
from sandbox import DEMO_CONFIG
from sandbox import output as screens
from sandbox.backtest import at_the_time
from sandbox.demo_places import Places, clear, places_of
from sandbox.local_crm.server import LocalCrm
from sandbox.synthetic_app import SyntheticApp, generate
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.load import load

STARTS_ON = date(2026, 4, 1)
COUNT_DAYS = 90
# A Sunday near the deadline, with a week of events left after it. The first run catches up a missed day; the others are hourly.
BACKFILL_UNTIL = datetime(2026, 6, 21, 8, tzinfo=UTC)
CATCH_UP_HOURS = 24
API_KEY = "local-key"
LOCAL_BRAZE = "braze local"  # the identity of the demo's CRM, whatever CRM the settings name


@dataclass(frozen=True)
class Made:
    """Results of the demo: events, history, a model, the runs, the repeated last run, and the CRM's segments."""

    count_events: int
    history: Backfilled
    trained: Registered
    hours: list[Result]
    repeated: Result
    segments: dict[str, int]


def run_demo(*, count_users: int, count_hours: int, seed: int, is_quiet: bool = False) -> dict[str, Any]:
    """Run the demo in the default places, so that `winback status` and `winback local-crm` show it afterwards.

    Raises: ContractError when those places hold data that no demo made, RunInProgressError when another process has the
    warehouse open.
    """
    # Nothing from the demo goes into a shared registry.
    settings = read_settings().model_copy(update={"config": DEMO_CONFIG, "registry": ""})
    places = places_of(settings)
    clear(places)
    console = Console(quiet=is_quiet)
    started = time.monotonic()
    untils = [BACKFILL_UNTIL + timedelta(hours=CATCH_UP_HOURS + n) for n in range(count_hours + 1)]
    with closing(demo_narrator()) as reporter:  # also before an error is printed, which needs a new line
        reporter.step("Making a synthetic tax app", users=count_users)
        app = generate(seed=seed, count_users=count_users, starts_on=STARTS_ON, count_days=COUNT_DAYS)
        _load(app, settings, places, untils, reporter)
        made = _run(app, settings, places, untils, reporter)
    seconds, hours, repeated = time.monotonic() - started, made.hours, made.repeated

    console.print(
        f"\n[bold]{made.count_events:,} events[/] of {count_users:,} users made {made.history.count_sessions:,} sessions and "
        f"{made.history.count_exits:,} unfinished exits before {BACKFILL_UNTIL:%d %B %H:%M} UTC.\n"
        f"A model trained on those with known labels: [bold]AUC {made.trained.metrics['auc']:.3f}[/] on later exits "
        f"(calibration error {made.trained.metrics['calibration_error']:.3f}). Then a missed day, and hour by hour:\n",
        highlight=False,
    )
    console.print(screens.runs([*hours, repeated]))
    console.print(f"{screens.SENT}\n", style="dim", highlight=False)
    console.print(screens.segments(made.segments))
    ok = repeated.sync.requests == 0 and all(not h.stopped and not h.sync.rejected for h in hours)
    console.print(
        "\n[green]✓[/] The last hour, repeated, sent nothing."
        if ok
        else f"\n[red]✗[/] The last hour, repeated, sent {repeated.sync.delivered} users.",
        highlight=False,
    )
    console.print(f"\nIt took {seconds:.0f} s. Where to look next:", highlight=False)
    next_hour = hours[-1].window_until + timedelta(hours=1)
    for what, how in (
        ("The CRM's page, with segments, profiles and their history", "make crm"),
        ("The model's card", str(made.trained.folder / "card.html")),
        ("Watermark, last runs, pending work", ".venv/bin/winback status"),
        # A replay sets its clock to the hour. A run by this machine's clock would see the demo's future events.
        ("The next hour", f".venv/bin/winback backtest --until {next_hour:%Y-%m-%dT%H:%M} --every 1"),
    ):
        console.print(f"  {what}\n    [bold]{how}[/]", highlight=False, soft_wrap=True)
    return {
        "ok": ok,
        "seconds": round(seconds, 1),
        "metrics": made.trained.metrics,
        "hours": [h.as_dict() for h in hours],
        "repeated": repeated.as_dict(),
        "segments": made.segments,
    }


def _load(
    app: SyntheticApp, settings: Settings, places: Places, untils: list[datetime], reporter: ProgressReporter
) -> None:
    """Load the app's files into a new warehouse. Its mark is written first, so that a killed demo stays recognisable."""
    ends_at = datetime.combine(STARTS_ON + timedelta(days=COUNT_DAYS), datetime.min.time(), UTC)
    with closing(DuckDBWarehouse(places.warehouse, memory_limit=settings.memory_limit)) as warehouse:
        write_mark(warehouse, DemoMark(BACKFILL_UNTIL, frozenset({BACKFILL_UNTIL, *untils}), ends_at))
        app.write(places.data)
        files = {name: places.data / f"{name}.parquet" for name in ("events", "users", "redemptions")}
        load(warehouse, files, now=ends_at, advance=reporter.progress("Loading", None))


def _run(
    app: SyntheticApp, settings: Settings, places: Places, untils: list[datetime], reporter: ProgressReporter
) -> Made:
    """Load history, train, and run hour after hour by the demo's clock."""
    with (
        LocalCrm(places.crm, api_key=API_KEY) as crm,
        open_context(settings, reporter=reporter, destination=Braze(crm.url, API_KEY), crm=LOCAL_BRAZE) as context,
    ):
        history = backfill(context, BACKFILL_UNTIL)
        trained = train(at_the_time(context, BACKFILL_UNTIL))
        quiet = replace(context, reporter=NullProgress())
        hours = []
        for until in untils:
            crm.stand_at(until)
            reporter.step(f"Running until {until:%d %B %H:%M}", until=until)
            hours.append(hourly(at_the_time(quiet, until), until))
        reporter.step("Repeating the last hour", until=untils[-1])
        repeated = hourly(at_the_time(quiet, untils[-1]), untils[-1])
        return Made(app.events.num_rows, history, trained, hours, repeated, crm.store.segment_counts())
