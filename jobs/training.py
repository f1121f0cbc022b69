"""How does a model come about: matured examples from dbt, handed to whatever trainer is installed, and registered?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jobs.examples import build_examples, installed
from jobs.house import House
from jobs.models import enroll, open_registry
from scoring.registry import CHAMPION
from warehouse import ledger


@dataclass(frozen=True)
class Registered:
    """A sealed bundle in the registry. `alias`: champion, where there was none, else challenger."""

    version: str
    folder: Path
    metrics: dict[str, float]
    alias: str


def train(house: House, until: datetime | None = None) -> Registered:
    """Build the examples known by `until` (UTC; default the watermark) and train on them, and register the bundle.

    Raises: ContractError when nothing is backfilled, training is not installed, or the examples do not suffice;
    RegistryUnreachableError before the work, or after it: the bundle is on disk then, and training again keeps it.
    """
    ledger.history(house.warehouse)
    trainer = installed("train")
    open_registry(house.settings).resolve(CHAMPION)  # now rather than after an hour's work
    examples, until = build_examples(house, until)
    house.narrator.step("Training", examples=examples.num_rows)
    trained = trainer(
        examples,
        house.settings.config,
        house.settings.models,
        trained_at=house.now(),
        until=until,
        label_window_days=house.funnel.label_window_days,
        threads=house.settings.threads,
        advance=house.narrator.step,
    )
    house.narrator.step("Registering", model_version=trained.version)
    alias = enroll(house.settings, trained.version)
    return Registered(trained.version, trained.folder, trained.metrics, alias)
