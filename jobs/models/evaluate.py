"""Compares the challenger with the champion on the latest examples, and stores the verdict with the challenger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.errors import ContractError
from jobs.context import JobContext
from jobs.models.dataset import build_examples, installed
from jobs.models.lifecycle import VERDICT, open_registry
from scoring.registry.folder import CHALLENGER, CHAMPION
from warehouse import ledger


@dataclass(frozen=True)
class NoChallenger:
    """Result without a challenger to compare."""

    champion: str
    challenger: None = None
    is_better: bool = False
    says: str = "No challenger exists. Train one: winback train"


def evaluate(context: JobContext, until: datetime | None = None) -> Any:
    """Evaluate the challenger on the examples known by `until` (UTC; default the watermark); returns the verdict of training.

    No verdict is a failure. It is stored as `verdict.json` with the challenger and replaces an earlier one.

    Raises: ContractError without history, a champion, complete bundles, or training; RegistryUnreachableError.
    """
    judge = installed("evaluate")
    ledger.history(context.warehouse, context.now())
    registry, models = open_registry(context.settings), context.settings.models
    champion, challenger = registry.resolve(CHAMPION), registry.resolve(CHALLENGER)
    if champion is None:
        raise ContractError(
            "No champion exists to compare with. Train a model (winback train): the first one becomes the champion."
        )
    if challenger is None:
        return NoChallenger(champion)
    rivals = registry.fetch(champion, models), registry.fetch(challenger, models)
    examples, _ = build_examples(context, until)
    context.reporter.step("Evaluating", champion=champion, challenger=challenger)
    verdict = judge(
        examples,
        context.settings.config,
        *rivals,
        label_window_days=context.funnel.label_window_days,
        threads=context.settings.threads,
    )
    registry.attach(challenger, VERDICT, verdict.model_dump_json(indent=2) + "\n")
    return verdict
