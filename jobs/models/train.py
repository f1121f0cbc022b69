"""How does a model come about: matured examples from dbt, handed to whatever trainer is installed, and registered?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from core.errors import ContractError
from jobs.context import House
from jobs.models.dataset import build_examples, installed
from jobs.models.lifecycle import enroll, open_registry
from jobs.upkeep.profile_coverage import coverage_of_exits
from scoring.registry.bundles import Bundle
from scoring.registry.folder import CHAMPION
from warehouse import ledger


@dataclass(frozen=True)
class Registered:
    """A sealed bundle in the registry. `alias`: champion, where there was none, else challenger."""

    version: str
    folder: Path
    metrics: dict[str, float]
    alias: str
    warnings: tuple[str, ...] = ()  # what speaks against trusting the figures, as on the card


def train(house: House, until: datetime | None = None) -> Registered:
    """Build the examples known by `until` (UTC; default the watermark) and train on them, and register the bundle.

    Raises: ContractError when nothing is backfilled, training is not installed, or the examples do not suffice;
    RegistryUnreachableError before the work, or after it: the bundle is on disk then, and training again keeps it.
    """
    ledger.history(house.warehouse, house.now())
    trainer = installed("train")
    last = _in_use(house)  # now rather than after an hour's work: the registry answers
    examples, until = build_examples(house, until)
    if warning := coverage_of_exits(house.warehouse).warning:
        house.narrator.warn(warning)
    house.narrator.step("Training", examples=examples.num_rows)
    trained = trainer(
        examples,
        house.settings.config,
        house.settings.models,
        trained_at=house.now(),
        until=until,
        label_window_days=house.funnel.label_window_days,
        last=last,
        threads=house.settings.threads,
        advance=house.narrator.step,
    )
    house.narrator.step("Registering", model_version=trained.version)
    alias = enroll(house.settings, trained.version)
    return Registered(trained.version, trained.folder, trained.metrics, alias, trained.warnings)


def _in_use(house: House) -> Bundle | None:
    """The champion, for the card to compare with; one that is not whole does not keep a better one from being trained."""
    registry = open_registry(house.settings)
    version = registry.resolve(CHAMPION)
    try:
        return registry.fetch(version, house.settings.models) if version else None
    except ContractError as error:
        house.narrator.warn(f"{error} The card compares with no earlier model.")
        return None
