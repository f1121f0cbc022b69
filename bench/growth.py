"""Ratio of an hour's cost with a history ten times as long to its cost without.

The short history is one season of an app's events. The long one has nine earlier seasons of other users before it. So it is ten
times as long, and the hours after it are the same. In both, every exit of the history was decided, sent and acknowledged. Then
the same hours run on both, alternately, and the processor time of dbt's builds is compared. Wall time is shown too.

    python bench/growth.py [--events 1450000] [--hours 5]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Screen

from core.clock import UNIX_EPOCH
from core.settings import Settings
from crm_sync.destinations.braze import Braze
from jobs.context import JobContext, open_context
from jobs.hourly.run import hourly
from jobs.models.train import train
from jobs.transform.dbt import Transform, Window
from jobs.upkeep.backfill import backfill
from sandbox.local_crm.server import LocalCrm
from sandbox.synthetic_app import generate
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.load import load

ROOT = Path(__file__).parents[1]
STARTS_ON, COUNT_DAYS = date(2026, 4, 1), 60
HISTORY_UNTIL = datetime(2026, 5, 20, 16, tzinfo=UTC)
NOW = datetime(2026, 7, 1, tzinfo=UTC)
SEASONS = 10
EVENTS_PER_USER = 41  # of the synthetic app, about
BOUND_RATIO = 1.25


def make_raw(folder: Path, count_events: int) -> None:
    """Load the season, and write the earlier ones into a file beside it."""
    app = generate(seed=1, count_users=count_events // EVENTS_PER_USER, starts_on=STARTS_ON, count_days=COUNT_DAYS)
    app.write(folder)
    files = {name: folder / f"{name}.parquet" for name in ("events", "users", "redemptions")}
    for name, seasons in (("short", 1), ("long", SEASONS)):
        warehouse = DuckDBWarehouse(folder / name / "winback.duckdb")
        load(warehouse, files, now=NOW)
        earlier = f"from range(1, {seasons}) as seasons(n)"
        back, other = f"n * interval {COUNT_DAYS} day", "'s' || n || '-' || "
        warehouse.connection.execute(f"""
            insert into raw.app_events select events.* replace (
                {other} event_id as event_id, {other} user_id as user_id,
                occurred_at - {back} as occurred_at, loaded_at - {back} as loaded_at
            ) from raw.app_events as events, (select n {earlier}) order by n desc;
            insert into raw.users select users.* replace (
                {other} user_id as user_id, created_at - {back} as created_at, updated_at - {back} as updated_at,
                loaded_at - {back} as loaded_at
            ) from raw.users as users, (select n {earlier}) order by n desc
        """)
        warehouse.close()


def decide_history(context: JobContext) -> None:
    """Write a decision for every exit of the history, and a delivery for every user, as if the job had processed it all."""
    warehouse = context.warehouse
    assert isinstance(warehouse, DuckDBWarehouse)
    warehouse.connection.execute("""
        insert into ops.decisions by name
        select exit_id, user_id, exited_at, (select run_id from ops.runs) as run_id, 0 as epoch, closed_at as decided_at,
            'scored' as disposition, false as is_eligible, 0.5 as churn_probability, 'medium' as churn_risk_band,
            'old' as model_version, 'old' as policy_version, 'treatment' as experiment_arm,
            'budget_run' as eligibility_reason
        from marts.fct_unfinished_exits where not is_dissolved
    """)
    everything = Window(from_at=UNIX_EPOCH, until_at=HISTORY_UNTIL, history_until=HISTORY_UNTIL)
    context.transform(everything).build("audience")
    warehouse.connection.execute(f"""
        insert into ops.deliveries by name
        select (select run_id from ops.runs) as run_id, 0 as epoch, user_id, desired_hash, '' as fields_sent,
            timestamp '{HISTORY_UNTIL:%Y-%m-%d %H:%M:%S}' as attempted_at, 'delivered' as outcome,
            columns('^(churn_|is_voucher|voucher_|experiment_arm)')
        from marts.crm_profiles
    """)
    context.transform(everything).build("acknowledged")


@contextmanager
def timed(seconds: list[float], wall: list[float]) -> Iterator[None]:
    """Sum the processor seconds and wall seconds of dbt's builds."""
    build = Transform.build

    def timing(self: Transform, *arguments: Any, **options: Any) -> None:
        started, started_wall = time.process_time(), time.perf_counter()
        build(self, *arguments, **options)
        seconds[-1] += time.process_time() - started
        wall[-1] += time.perf_counter() - started_wall

    Transform.build = timing  # type: ignore[method-assign]
    try:
        yield
    finally:
        Transform.build = build  # type: ignore[method-assign]


def main() -> int:
    """Run the bench and print; exit 1 when the bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_450_000)
    parser.add_argument("--hours", type=int, default=5)
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with console.status("Making the two histories ..."):
            make_raw(folder, arguments.events)
        taken: dict[str, list[float]] = {"short": [], "long": []}
        walls: dict[str, list[float]] = {"short": [], "long": []}
        counts: dict[str, tuple[int, int]] = {}
        parsed: dict[str, Any] = {}

        def settings(which: str) -> Settings:
            return Settings(
                warehouse=f"duckdb:///{folder / which / 'winback.duckdb'}",
                models=folder / "models",
                config=ROOT / "config",
                dbt_target=folder / "dbt",
            )

        for which in taken:
            with console.status(f"Backfilling the {which} history ..."), open_context(settings(which)) as context:
                backfilled = backfill(context, HISTORY_UNTIL)
                counts[which] = (backfilled.count_events, backfilled.count_exits)
                if which == "short":
                    train(context)
                decide_history(context)
        for hour in range(arguments.hours + 1):
            for which, seconds in taken.items():
                seconds.append(0)
                walls[which].append(0)
                with (
                    console.status(f"Hour {hour} on the {which} history ..."),
                    LocalCrm(folder / which / "crm.sqlite", api_key="key") as crm,
                    open_context(settings(which), destination=Braze(crm.url, "key"), parsed=parsed) as context,
                    timed(seconds, walls[which]),
                ):
                    hourly(context, HISTORY_UNTIL + timedelta(hours=hour + 1))
    medians = {which: statistics.median(seconds[1:]) for which, seconds in taken.items()}
    screen = Screen(
        "history", "events", "exits", "dbt of an hour, median s of processors", "of each hour", "wall s, median"
    )
    for which, (events, exits) in counts.items():
        each = " ".join(f"{s:.2f}" for s in taken[which][1:])
        wall = statistics.median(walls[which][1:])
        screen.add_row(which, f"{events:,}", f"{exits:,}", f"{medians[which]:.2f}", each, f"{wall:.2f}")
    console.print(screen)
    ratio = medians["long"] / medians["short"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"ratio {ratio:.2f} (bound {BOUND_RATIO})   peak of this process {peak:,.0f} MB")
    return 0 if ratio <= BOUND_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
