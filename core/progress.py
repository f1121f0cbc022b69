"""Progress reporters: bars on a terminal, JSON lines elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime
from typing import Any, Protocol

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

Advance = Callable[[int], None]


class ProgressReporter(Protocol):
    """Receives steps and progress: counts, times and names of steps, never ids or values of users."""

    def step(self, what: str, **facts: Any) -> None:
        """Report that a step begins."""

    def warn(self, what: str, **facts: Any) -> None:
        """Report a problem that does not stop the run."""

    def progress(self, what: str, total: int | None) -> Advance:
        """Report that a long step begins; call the returned function with the number of items done since the last call."""

    def report(self, **facts: Any) -> None:
        """Report that a run has ended. Monitoring reads this one line."""

    def close(self) -> None:
        """End the output."""


class NullProgress:
    """A reporter without output, for tests and for commands that finish at once."""

    def step(self, what: str, **facts: Any) -> None:
        """Do nothing."""

    def warn(self, what: str, **facts: Any) -> None:
        """Do nothing."""

    def progress(self, what: str, total: int | None) -> Advance:  # noqa: ARG002
        """Do nothing."""
        return lambda _: None

    def report(self, **facts: Any) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class _Count(ProgressColumn):
    """Column that shows the number of items done and, if it is more than one, the total."""

    def render(self, task: Task) -> Text:
        """Return `1,200/5,000`, `1,200` of an unknown number, or nothing."""
        if task.total is None:
            return Text(f"{task.completed:,.0f}" if task.completed else "")
        return Text(f"{task.completed:,.0f}/{task.total:,.0f}" if task.total > 1 else "", style="progress.download")


class RichProgress:
    """A spinner and bars on a terminal; each finished step leaves one line."""

    def __init__(self) -> None:
        """Start the display."""
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Count(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._progress.start()

    def step(self, what: str, **facts: Any) -> None:  # noqa: ARG002
        """Finish the previous step and begin this one."""
        self._finish()
        self._progress.add_task(what, total=None)

    def warn(self, what: str, **facts: Any) -> None:  # noqa: ARG002
        """Print a line; the screen after the command shows the facts."""
        self._finish()
        self._progress.console.print(f"[yellow]![/] {what}")

    def progress(self, what: str, total: int | None) -> Advance:
        """Begin a bar."""
        self._finish()
        task = self._progress.add_task(what, total=total)
        return lambda done: self._progress.advance(task, done)

    def report(self, **facts: Any) -> None:
        """Do nothing, because the screen after the command shows the result."""

    def close(self) -> None:
        """Finish all steps and release the terminal."""
        self._finish()
        self._progress.stop()

    def _finish(self) -> None:
        for task in self._progress.tasks:
            # A bar of known length stays as it is, because one that stopped early must not look complete.
            if task.total is None:
                done = max(int(task.completed), 1)
                self._progress.update(task.id, total=done, completed=done)


class JsonProgress:
    """One JSON line per step, in the form that Cloud Logging and similar services read."""

    def __init__(self) -> None:
        """Write to stderr, because stdout holds the result."""
        self._log = logger()

    def step(self, what: str, **facts: Any) -> None:
        """Write the step and its facts."""
        self._log.info(what, **{k: v.isoformat() if isinstance(v, datetime) else v for k, v in facts.items()})

    def warn(self, what: str, **facts: Any) -> None:
        """Write a line of severity WARNING."""
        self._log.warning(what, **facts)

    def progress(self, what: str, total: int | None) -> Advance:
        """Write that the step began, without a line per batch."""
        self._log.info(what, total=total)
        return lambda _: None

    def report(self, **facts: Any) -> None:
        """Write the line that sums up the run."""
        self._log.info("Run ended", **facts)

    def close(self) -> None:
        """Do nothing, because there is nothing to release."""


class PlainLines(NullProgress):
    """One plain line per step on stderr, for a person without a terminal, such as in a CI log or a pipe."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start counting seconds."""
        self._monotonic, self._started = monotonic, monotonic()

    def step(self, what: str, **facts: Any) -> None:  # noqa: ARG002
        """Write the step with the seconds since the start."""
        self._write(what)

    def warn(self, what: str, **facts: Any) -> None:  # noqa: ARG002
        """Write a warning."""
        self._write(f"! {what}")

    def progress(self, what: str, total: int | None) -> Advance:  # noqa: ARG002
        """Write that the step began."""
        self._write(what)
        return lambda _: None

    def _write(self, what: str) -> None:
        print(f"{self._monotonic() - self._started:4.0f} s  {what}", file=sys.stderr, flush=True)  # noqa: T201


def make_reporter() -> ProgressReporter:
    """Return bars for a terminal, JSON lines elsewhere."""
    return RichProgress() if sys.stderr.isatty() else JsonProgress()


def demo_narrator() -> ProgressReporter:
    """Return bars for a terminal, plain lines elsewhere, because no program reads the log of the demo."""
    return RichProgress() if sys.stderr.isatty() else PlainLines()


def logger() -> Any:
    """Return a logger of JSON lines with `severity` and `message`, the names that Cloud Logging interprets."""

    def name_severity(_: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        return {"severity": method.upper(), "message": event.pop("event"), **event}

    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            name_severity,
            structlog.processors.JSONRenderer(),
        ],
    )
