"""How does a job tell what it is doing: bars on a terminal, JSON lines elsewhere, always on stderr?"""

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
    """Told of steps and progress. Gets counts, times and names of steps: never ids or values of users."""

    def step(self, what: str, **facts: Any) -> None:
        """A step begins."""

    def warn(self, what: str, **facts: Any) -> None:
        """Something is not as it should be, and the run goes on."""

    def progress(self, what: str, total: int | None) -> Advance:
        """A long step begins; the returned function is told how many more are done."""

    def report(self, **facts: Any) -> None:
        """A run has ended: the one line that monitoring reads."""

    def close(self) -> None:
        """All is done."""


class NullProgress:
    """Says nothing: for tests, and for commands that finish at once."""

    def step(self, what: str, **facts: Any) -> None:
        """Say nothing."""

    def warn(self, what: str, **facts: Any) -> None:
        """Say nothing."""

    def progress(self, what: str, total: int | None) -> Advance:  # noqa: ARG002
        """Say nothing."""
        return lambda _: None

    def report(self, **facts: Any) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


class _Count(ProgressColumn):
    """How many of how many, where there is more than one."""

    def render(self, task: Task) -> Text:
        """Return `1,200/5,000`, `1,200` of an unknown number, or nothing."""
        if task.total is None:
            return Text(f"{task.completed:,.0f}" if task.completed else "")
        return Text(f"{task.completed:,.0f}/{task.total:,.0f}" if task.total > 1 else "", style="progress.download")


class RichProgress:
    """A spinner and bars for somebody who is watching; each finished step leaves one line."""

    def __init__(self) -> None:
        """Take the terminal."""
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
        """Finish what ran before and begin this."""
        self._finish()
        self._progress.add_task(what, total=None)

    def warn(self, what: str, **facts: Any) -> None:  # noqa: ARG002
        """Leave a line; the facts are on the screen that follows."""
        self._finish()
        self._progress.console.print(f"[yellow]![/] {what}")

    def progress(self, what: str, total: int | None) -> Advance:
        """Begin a bar."""
        self._finish()
        task = self._progress.add_task(what, total=total)
        return lambda done: self._progress.advance(task, done)

    def report(self, **facts: Any) -> None:
        """Leave it to the screen that follows."""

    def close(self) -> None:
        """Finish everything and give the terminal back."""
        self._finish()
        self._progress.stop()

    def _finish(self) -> None:
        for task in self._progress.tasks:
            # A bar of known length stays as it is: one that stopped early must not look complete.
            if task.total is None:
                done = max(int(task.completed), 1)
                self._progress.update(task.id, total=done, completed=done)


class JsonProgress:
    """One JSON line a step, as Cloud Logging and its kin read them."""

    def __init__(self) -> None:
        """Write to stderr: stdout belongs to the answer."""
        self._log = logger()

    def step(self, what: str, **facts: Any) -> None:
        """Write the step and its facts."""
        self._log.info(what, **{k: v.isoformat() if isinstance(v, datetime) else v for k, v in facts.items()})

    def warn(self, what: str, **facts: Any) -> None:
        """Write a line of severity WARNING."""
        self._log.warning(what, **facts)

    def progress(self, what: str, total: int | None) -> Advance:
        """Write that the step began; batches are not worth a line each."""
        self._log.info(what, total=total)
        return lambda _: None

    def report(self, **facts: Any) -> None:
        """Write the run's line."""
        self._log.info("Run ended", **facts)

    def close(self) -> None:
        """Nothing is held."""


class PlainLines(NullProgress):
    """One plain line a step on stderr, for a person without a terminal: a log of CI, a pipe."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Count seconds from now on."""
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
    """Bars where a person watches, lines elsewhere."""
    return RichProgress() if sys.stderr.isatty() else JsonProgress()


def demo_narrator() -> ProgressReporter:
    """Bars on a terminal, plain lines elsewhere: the demo has no machine that reads its log."""
    return RichProgress() if sys.stderr.isatty() else PlainLines()


def logger() -> Any:
    """A logger of JSON lines with `severity` and `message`, the names Cloud Logging gives meaning to."""

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
