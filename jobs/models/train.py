"""Trains a model on matured examples with the installed training package, and registers its bundle."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from core.errors import ContractError
from jobs.context import JobContext
from jobs.models.dataset import build_examples, installed
from jobs.models.lifecycle import open_registry, register_trained
from jobs.upkeep.profile_coverage import coverage_of_exits
from scoring.registry.bundles import Bundle
from scoring.registry.folder import CHAMPION
from warehouse import ledger


@dataclass(frozen=True)
class Registered:
    """A registered model bundle. `alias` is champion if there was none, else challenger."""

    version: str
    folder: Path
    metrics: dict[str, float]
    alias: str
    warnings: tuple[str, ...] = ()  # reasons to distrust the metrics, as on the card


def train(context: JobContext, until: datetime | None = None) -> Registered:
    """Build the examples known by `until` (UTC; default the watermark), train on them, and register the bundle.

    Raises: ContractError if nothing is backfilled, training is not installed, or there are too few examples;
    RegistryUnreachableError before the work, or after it. The bundle is then on disk, and training again keeps it.
    """
    ledger.history(context.warehouse, context.now())
    trainer = installed("train")
    last = _in_use(context)  # now, so that an unreachable registry fails before an hour of work
    examples, until = build_examples(context, until)
    if warning := coverage_of_exits(context.warehouse).warning:
        context.reporter.warn(warning)
    context.reporter.step("Training", examples=examples.num_rows)
    trained = trainer(
        examples,
        context.settings.config,
        context.settings.models,
        trained_at=context.now(),
        until=until,
        label_window_days=context.funnel.label_window_days,
        last=last,
        threads=context.settings.threads,
        advance=context.reporter.step,
    )
    context.reporter.step("Registering", model_version=trained.version)
    alias = register_trained(context.settings, trained.version)
    return Registered(trained.version, trained.folder, trained.metrics, alias, trained.warnings)


def _in_use(context: JobContext) -> Bundle | None:
    """Return the champion, with which the card compares; an incomplete champion does not stop the training."""
    registry = open_registry(context.settings)
    version = registry.resolve(CHAMPION)
    try:
        return registry.fetch(version, context.settings.models) if version else None
    except ContractError as error:
        context.reporter.warn(f"{error} The card has no comparison with an earlier model.")
        return None
