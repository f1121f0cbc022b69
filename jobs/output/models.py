"""Output of the commands that build examples, and train, evaluate and promote models."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from jobs.output.tables import table_of, when

if TYPE_CHECKING:  # imports the libraries of dbt and the model, which `--help` does not need
    from jobs.models.dataset import Examples
    from jobs.models.lifecycle import Promoted

_MOST_MOVED = 8
_MEASURES = {
    "AUC": "auc",
    "Brier score": "brier",
    "log loss": "log_loss",
    "calibration error": "calibration_error",
}


def built(console: Console, answer: Examples) -> None:
    """Print the number of examples, their outcomes, and the features that late events have changed."""
    unfinished = "-" if answer.unfinished_ratio is None else f"{answer.unfinished_ratio:.1%}"
    console.print(
        f"[bold]{answer.count_examples:,}[/] examples of {answer.count_users:,} users, exits {when(answer.first_exited_at)} to "
        f"{when(answer.last_exited_at)} UTC; {unfinished} unfinished",
        highlight=False,
        soft_wrap=True,
    )
    if answer.count_treated:
        console.print(f"{answer.count_treated:,} held a voucher: training leaves them out", highlight=False)
    if answer.moved:
        share = answer.count_moved / answer.count_examples
        told = (
            f"{answer.count_moved:,} ({share:.1%}) were scored before all their events had arrived. "
            "Features with a different value today:"
        )
        console.print(told, highlight=False, soft_wrap=True)
        table = table_of("feature", "examples", "share")
        for each in answer.moved[:_MOST_MOVED]:
            table.add_row(
                each.feature, f"{each.count_examples:,}", f"{each.count_examples / answer.count_examples:.1%}"
            )
        console.print(table)
    console.print("Next: winback train", style="dim")


def trained(console: Console, answer: Any) -> None:
    """Print the version and its metrics."""
    m = answer.metrics
    console.print(f"Model [bold]{answer.version}[/] is the {answer.alias}", highlight=False)
    console.print(
        f"AUC {m['auc']:.3f}, average precision {m['average_precision']:.3f}, Brier {m['brier']:.3f} "
        f"(base rate alone {m['brier_baseline']:.3f}), "
        f"calibration error {m['calibration_error']:.3f}, lift at 10 % {m['lift_at_10_percent']:.2f}",
        highlight=False,
    )
    for warning in answer.warnings:
        console.print(f"[yellow]Warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)
    console.print(f"Card: {answer.folder / 'card.html'}", style="dim", highlight=False, soft_wrap=True)
    if answer.alias == "challenger":
        console.print("Next: winback evaluate, and if it is better winback promote", style="dim", highlight=False)


def judged(console: Console, answer: Any) -> None:
    """Print the two models side by side, each check, and the verdict."""
    scores = (getattr(answer, "champion_scores", None), getattr(answer, "challenger_scores", None))
    if answer.challenger:
        console.print(f"Champion [bold]{answer.champion}[/], challenger [bold]{answer.challenger}[/]", highlight=False)
    if all(scores):
        console.print(
            f"{answer.count_examples:,} exits of {answer.count_users:,} users, {when(answer.first_exited_at)} to "
            f"{when(answer.last_exited_at)} UTC",
            style="dim",
            highlight=False,
        )
        table = table_of("", "champion", "challenger")
        for name, measure in _MEASURES.items():
            table.add_row(name, *(f"{getattr(each, measure):.4f}" for each in scores))
        console.print(table)
    for check in getattr(answer, "checks", ()):
        mark = "[green]✓[/]" if check.is_passed else "[red]✗[/]"
        console.print(f"{mark} {escape(check.says)}", highlight=False, soft_wrap=True)
    if not answer.challenger:
        console.print(escape(answer.says), highlight=False)
    elif answer.is_better:
        console.print("[bold green]The challenger is better.[/] Use it: winback promote", highlight=False)
    else:
        counts = Counter(check.name.split(",")[0] for check in answer.checks if not check.is_passed)
        failed = ", ".join(name if count == 1 else f"{name} ({count})" for name, count in counts.items())
        console.print(f"[bold]Not better: {escape(failed)}.[/] The champion stays.", highlight=False, soft_wrap=True)


def promoted(console: Console, answer: Promoted) -> None:
    """Print the new champion."""
    console.print(
        f"Champion is [bold]{answer.champion}[/], before it was {answer.before or 'none'}. The next run uses it.",
        highlight=False,
    )
