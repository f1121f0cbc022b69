"""Entry points of training for the command line; they read the configuration folder."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from scoring.features_file import load_contract
from scoring.registry.bundles import Bundle
from training import pipeline
from training.config import check_trusted, load_training
from training.pipeline import Trained
from training.promotion import champion_challenger as rivals
from training.promotion.verdict import Verdict


def train(
    examples: pa.Table,
    config: Path,
    models: Path,
    *,
    trained_at: datetime,
    until: datetime,
    label_window_days: int,
    last: Bundle | None,
    threads: int,
    advance: Callable[[str], None],
) -> Trained:
    """Train with `features.yml` and `training.yml` of the folder; see `training.pipeline.train`."""
    declared, rules = load_contract(config / "features.yml"), load_training(config / "training.yml")
    check_trusted(rules, declared.names)
    return pipeline.train(
        examples,
        declared,
        models,
        trained_at=trained_at,
        until=until,
        label_window_days=label_window_days,
        rules=rules,
        last=last,
        threads=threads,
        advance=advance,
    )


def evaluate(
    examples: pa.Table,
    config: Path,
    champion: Bundle,
    challenger: Bundle,
    *,
    label_window_days: int,
    threads: int,
) -> Verdict:
    """Compare with `training.yml` of the folder; see `training.promotion.champion_challenger.evaluate`."""
    rules = load_training(config / "training.yml")
    return rivals.evaluate(
        examples, champion, challenger, rules.challenge, label_window_days, seed=rules.seed, threads=threads
    )
