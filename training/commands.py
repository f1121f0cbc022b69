"""What does the command line ask of this room? It is found by entry point, with the folder of the files people edit."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from scoring.contract import load_contract
from training import train as training
from training.config import load_training
from training.train import Trained


def train(
    examples: pa.Table,
    config: Path,
    models: Path,
    *,
    trained_at: datetime,
    until: datetime,
    label_window_days: int,
    threads: int,
    advance: Callable[[str], None],
) -> Trained:
    """Train by `features.yml` and `training.yml` of the folder; see `training.train.train`."""
    return training.train(
        examples,
        load_contract(config / "features.yml"),
        models,
        trained_at=trained_at,
        until=until,
        label_window_days=label_window_days,
        rules=load_training(config / "training.yml"),
        threads=threads,
        advance=advance,
    )
