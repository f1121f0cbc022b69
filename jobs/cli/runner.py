"""Runs a command: parses its options, calls it, and prints a text for people or one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from core.progress import logger, make_reporter
from core.settings import Settings, read_settings

as_json = click.option("--json", "is_json", is_flag=True, help="One machine-readable object on stdout.")


class DateTimeParam(click.ParamType["datetime"]):
    """A time: 2026-06-01, 2026-06-01T10:00, or with a time zone; without one it is UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return a timezone-aware datetime in UTC."""
        try:
            moment = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is not a valid time; write 2026-06-01T10:00 or 2026-06-01T10:00+02:00", param, ctx)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def run_command(is_json: bool, act: Callable[[Settings, Any], Any], show: Callable[[Console, Any], None]) -> Any:
    """Read the settings, run the command, and print its result as JSON or as text for people."""
    settings = read_settings()
    reporter = make_reporter()
    try:
        answer = act(settings, reporter)
    finally:
        reporter.close()
    print_answer(answer, is_json, show)
    return answer


def require_terminal(advice: str) -> None:
    """Raise a usage error with the advice if stdin is not a terminal."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"Cannot ask for confirmation: stdin is not a terminal. {advice}")


def print_answer(answer: Any, is_json: bool, show: Callable[[Console, Any], None]) -> None:
    """Print a result as JSON, or with `show`."""
    if is_json:
        click.echo(json.dumps(_plain(answer), ensure_ascii=False))
    else:
        show(Console(), answer)


def log_message(severity: str, text: str) -> None:
    """Print a message to stderr: in colour on a terminal, else as a line of the log."""
    if sys.stderr.isatty():
        color = {"error": "red", "warning": "yellow", "info": "yellow"}[severity]
        Console(stderr=True).print(f"[{color}]{severity.capitalize()}:[/] ", end="")
        click.echo(text, err=True)
    else:
        getattr(logger(), severity)(text)


def _plain(answer: Any) -> Any:
    if hasattr(answer, "as_dict"):
        return _plain(answer.as_dict())
    if hasattr(answer, "__dataclass_fields__"):
        return {name: _plain(getattr(answer, name)) for name in answer.__dataclass_fields__}
    if isinstance(answer, dict):
        return {key: _plain(value) for key, value in answer.items()}
    if isinstance(answer, list | tuple):
        return [_plain(value) for value in answer]
    if isinstance(answer, datetime):
        return answer.isoformat()
    return str(answer) if isinstance(answer, Path) else answer
