"""Sandbox commands of `winback`: crm, replay, demo."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from core.settings import Settings, read_settings
from jobs.cli.runner import DateTimeParam, as_json, run_command
from sandbox import crm_file

DEFAULT_PORT = 8765
_database = click.option(
    "--database",
    type=click.Path(path_type=Path),
    show_default="crm.sqlite beside the warehouse",
    help="The CRM's profiles.",
)


@click.command(short_help="Run the local CRM and its pages until Ctrl-C.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="Port on this machine; 0 takes a free one.")
@_database
@as_json
def local_crm(port: int, database: Path | None, is_json: bool) -> None:
    """Run the local CRM and its page until Ctrl-C.

    \b
    winback local-crm
    """
    from sandbox.local_crm.server import LocalCrm  # noqa: PLC0415 - imports Flask only for this command

    file = database or crm_file(read_settings().duckdb_file)
    try:
        server = LocalCrm(file, port=port)
    except OSError:
        raise click.ClickException(
            f"Port {port} is in use, perhaps by a running CRM. Use a free port: --port 0"
        ) from None
    if is_json:
        click.echo(json.dumps({"url": server.url}))
    else:
        click.echo(f"Local CRM at {server.url} (Ctrl-C stops it)", err=True)
    server.serve_forever()


@click.command(short_help="Run loaded history window by window against a local CRM.")
@click.option("--until", type=DateTimeParam(), required=True, help="Where to stop.")
@click.option("--every", "hours", default=24, show_default=True, help="Hours in one run window.")
@_database
@as_json
def backtest(until: datetime, hours: int, database: Path | None, is_json: bool) -> None:
    """Run loaded history through the job window by window, against a local CRM, and measure the scores.

    \b
    winback backtest --until 2026-06-29 --every 24
    """
    from sandbox import output as screens  # noqa: PLC0415 - imports the model libraries only for this command
    from sandbox.backtest import replay as run  # noqa: PLC0415

    def act(settings: Settings, reporter: Any) -> Any:
        return run(settings, until, timedelta(hours=hours), database or crm_file(settings.duckdb_file), reporter)

    run_command(is_json, act, screens.replayed)


@click.command(short_help="Show the whole product on this machine.")
@click.option("--users", "count_users", default=20_000, show_default=True, help="Users of the synthetic app.")
@click.option(
    "--hours",
    "count_hours",
    type=click.IntRange(1, 150),
    default=12,
    show_default=True,
    help="Hourly runs after the first, which catches up one day.",
)
@click.option("--seed", default=7, show_default=True, help="Seed of the synthetic app.")
@click.option("--json", "is_json", is_flag=True, help="One machine-readable object on stdout.")
def demo(count_users: int, count_hours: int, seed: int, is_json: bool) -> None:
    """Show the whole product on this machine: an app, its history, a model, some runs and a CRM.

    \b
    winback demo
    """
    from sandbox.demo import run_demo  # noqa: PLC0415

    answer = run_demo(count_users=count_users, count_hours=count_hours, seed=seed, is_quiet=is_json)
    if is_json:
        click.echo(json.dumps(answer, default=str))
    if not answer["ok"]:
        sys.exit(1)
