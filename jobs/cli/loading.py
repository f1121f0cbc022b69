"""The command that loads raw data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from jobs.cli.runner import as_json, run_command
from jobs.output import load as load_screen
from jobs.upkeep.load import load_files


def _files(option: str, table: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return an option that may be repeated; each value is a file, a folder or a pattern."""
    told = f"Parquet or CSV of {table}: a file, a folder, or a pattern in quotes. May be repeated."
    return click.option(option, multiple=True, type=click.Path(path_type=Path), help=told)


@click.command()
@_files("--events", "raw.app_events")
@_files("--users", "raw.users")
@_files("--redemptions", "raw.voucher_redemptions")
@click.option(
    "--set-aside",
    type=click.Path(path_type=Path),
    help="Write rejected rows to this file, with the reason, and load the rest.",
)
@as_json
def load(
    events: tuple[Path, ...],
    users: tuple[Path, ...],
    redemptions: tuple[Path, ...],
    set_aside: Path | None,
    is_json: bool,
) -> None:
    """Load raw data: all of it or nothing. Loading the same file twice changes nothing.

    \b
    winback load --events events.parquet --users users.csv
    winback load --events day1/ --events 'day2/*.csv.gz' --set-aside refused.csv
    """
    files = {
        name: paths for name, paths in (("events", events), ("users", users), ("redemptions", redemptions)) if paths
    }
    if not files:
        raise click.UsageError("Name at least one file: --events, --users or --redemptions.")
    run_command(
        is_json,
        lambda settings, reporter: load_files(settings, files, reporter, set_aside=set_aside),
        load_screen.loaded,
    )
