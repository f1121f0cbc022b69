"""Output of `winback load`: rows of each file table, then a summary of the raw tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from jobs.output.tables import table_of, when

if TYPE_CHECKING:  # imports DuckDB, which `--help` does not need
    from jobs.upkeep.load import FunnelMatch, LoadAnswer

MAX_NAMES = 20
MAX_LETTERS = 60


def loaded(console: Console, answer: LoadAnswer) -> None:
    """Print new and known rows per table, then events by name, users, and how the names match funnel.yml."""
    table = table_of("", "files", "rows", "new", "already there", "repeated", "set aside")
    for name, one in answer.tables.items():
        counts = (one.count_rows, one.count_new, one.count_already_there, one.count_repeated, one.count_set_aside)
        table.add_row(name, f"{answer.files[name]:,}", *(f"{count:,}" for count in counts))
    console.print(table)
    for name, one in answer.tables.items():
        if one.empty_files:
            _line(console, f"{name}: no row below the header in {_listed(one.empty_files)}", style="yellow")
        if one.ignored_columns:
            _line(console, f"{name}: ignored columns {_listed(one.ignored_columns)}")
        if one.count_differing:
            _line(console, f"{name}: {one.count_differing:,} rows differ from the stored row with the same key")
        if one.count_late:
            told = "new versions were written before the watermark. The next hourly run reads them."
            _line(console, f"{name}: {one.count_late:,} {told}")
        for because in one.set_aside_because:
            _line(console, f"set aside: {because}")
    if answer.set_aside:
        _line(
            console,
            f"The rows set aside are in {answer.set_aside}, each with its reason. Correct them and load that file.",
        )
    if answer.left_out:
        _line(console, f"not loaded, because of another file type: {_listed(answer.left_out)}")
    _summary(console, answer)
    console.print("Next: winback backfill --until TIME once, then winback run", style="dim")


def _summary(console: Console, answer: LoadAnswer) -> None:
    summary = answer.summary
    if answer.events_by_name:
        table = table_of("event", "new", "all", title="\nevents in the warehouse")
        for name, counts in list(answer.events_by_name.items())[:MAX_NAMES]:
            table.add_row(escape(_shown(name)), f"{counts['new']:,}", f"{counts['all']:,}")
        console.print(table)
        if (left := len(answer.events_by_name) - MAX_NAMES) > 0:
            _line(console, f"... and {left:,} more names: winback load --json lists them")
        first, last = when(summary.first_occurred_at), when(summary.last_occurred_at)
        _line(console, f"{summary.count_events:,} events from {first} to {last} UTC")
    if summary.count_events:
        _line(console, f"{answer.profiles.says}.", style=None if answer.profiles.is_enough else "yellow")
    if answer.funnel_problem:
        _line(console, answer.funnel_problem, style="yellow")
    elif answer.funnel and summary.count_events:
        _matched(console, answer.funnel)


def _matched(console: Console, match: FunnelMatch) -> None:
    lines = (
        ("events that are not in funnel.yml", match.unknown_events),
        ("steps that are not in funnel.yml", match.unknown_steps),
        ("events of funnel.yml that never occur", match.absent_events),
        ("steps of funnel.yml that never occur", match.absent_steps),
    )
    for title, names in lines:
        if names:
            _line(console, f"{title}: {_listed(names)}")
    for name, other in match.looks_like.items():
        _line(console, f"{_shown(name)} never occurs: is it {_shown(other)}?", style="yellow")


def _listed(names: Iterable[str]) -> str:
    shown = [_shown(name) for name in names]
    more = f", and {len(shown) - MAX_NAMES:,} more" if len(shown) > MAX_NAMES else ""
    return ", ".join(shown[:MAX_NAMES]) + more


def _shown(name: str) -> str:
    """Return a name of the app, shortened, without characters that control the terminal."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)
    return plain if len(plain) <= MAX_LETTERS else f"{plain[:MAX_LETTERS]}..."


def _line(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
