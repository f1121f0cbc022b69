"""Commands that build and compare the tables: backfill, the run, the rebuild of the last days, the audit."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click

from core.errors import RunInProgressError
from core.settings import Settings
from jobs.cli.contexts import with_context
from jobs.cli.runner import DateTimeParam, as_json, log_message, run_command
from jobs.context import open_context
from jobs.hourly.run import hourly as run_hourly
from jobs.output import runs as screens
from jobs.upkeep.audit import audit as run_audit
from jobs.upkeep.backfill import backfill as run_backfill
from jobs.upkeep.nightly import nightly as run_nightly


@click.command()
@click.option("--until", type=DateTimeParam(), required=True, help="History is what was loaded before this time.")
@as_json
def backfill(until: datetime, is_json: bool) -> None:
    """Build history as one epoch; decides and sends nothing.

    \b
    winback backfill --until 2026-06-01
    """
    run_command(is_json, with_context(lambda context: run_backfill(context, until)), screens.backfilled)


@click.command()
@click.option("--until", type=DateTimeParam(), help="End of the run window; default: now minus the safety lag.")
@click.option(
    "--dry-run", is_flag=True, help="Build, score, decide and simulate the sync, but commit and send nothing."
)
@click.option(
    "--allow-audience-drop",
    is_flag=True,
    help="Send although the audience has collapsed. Use it only after you have checked that this is right.",
)
@click.option("--accept-audience", is_flag=True, hidden=True)  # an earlier name
@as_json
def run(until: datetime | None, dry_run: bool, allow_audience_drop: bool, accept_audience: bool, is_json: bool) -> None:
    """Run once: features, scores, decisions, audience, sync.

    \b
    winback run
    winback run --until 2026-06-01T10:00 --json
    Exit codes: 0 done, 1 failed and safe to retry, 2 configuration or contract, 3 too many rejections or a collapsed audience.
    """

    def act(settings: Settings, reporter: Any) -> Any:
        with open_context(settings, reporter=reporter) as context:
            return run_hourly(context, until, dry_run=dry_run, accept_audience=allow_audience_drop or accept_audience)

    try:
        result = run_command(is_json, act, screens.ran)
    except RunInProgressError as busy:
        if not busy.is_hourly:
            raise
        # Not a failure: the run that holds the data does the same work.
        log_message("info", str(busy))
        if is_json:
            click.echo(json.dumps({"skipped": str(busy)}))
        return
    if result.stopped:
        raise result.stopped


@click.command()
@as_json
def rebuild(is_json: bool) -> None:
    """Rebuild what arrived within the last days, to correct lost or altered rows; decides and sends nothing.

    \b
    winback rebuild
    winback rebuild && winback run     (in place of one hourly run: never run the two at the same time)
    """
    run_command(is_json, with_context(run_nightly), screens.rebuilt)


@click.command()
@click.option("--percent", type=click.IntRange(1, 100), default=1, show_default=True, help="Percentage of the users.")
@as_json
def audit(percent: int, is_json: bool) -> None:
    """Rebuild a sample of users from the raw events in one pass, and compare it with the tables that hourly runs built.

    \b
    winback audit
    winback audit --percent 10 --json
    Exit codes: 0 no row differs, 1 failed and safe to retry, 2 configuration or contract, 3 rows differ: look at them.
    """
    drift = run_command(is_json, with_context(lambda context: run_audit(context, percent)), screens.audited).drift
    if drift:
        raise drift
