"""Examples in which each user has a unique income, device and origin, and a bundle trained on them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from scoring.features import Feature, FeatureContract
from training.config import TrainingRules
from training.fitting.search import SearchRules
from training.pipeline import train

DEVICE = Feature(name="device_type", type="category", reason="uses {value}")
CONTRACT = FeatureContract(
    features=(
        Feature(name="income", type="number", range=(0, 1e9)),
        Feature(name="count_errors", type="number", range=(0, 100), low="few errors", high="many errors"),
        DEVICE,
        Feature(name="referral_source", type="category", reason="came by {value}"),
    )
)


def incomes(count: int = 3_000) -> pa.Table:
    """Make examples with unique incomes, counts that many users share, and words of single users."""
    rng = np.random.default_rng(2)
    income, errors = np.round(rng.lognormal(10.5, 0.5, count), 2), rng.poisson(2, count)
    label = rng.random(count) < 1 / (1 + np.exp(-(income - 40_000) / 12_000 - (errors - 2) / 2))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return pa.table(
        {
            "label": label.astype(np.int64),
            "is_treated": np.zeros(count, dtype=bool),
            "exit_id": [f"exit-{n:05}" for n in range(count)],
            "user_id": [f"user-{n:05}" for n in range(count)],
            "exited_at": [start + timedelta(hours=n, seconds=n % 3_000, microseconds=n + 1) for n in range(count)],
            "income": income,
            "count_errors": errors,
            "device_type": [f"agent {n:05}" if n % 5 else "phone" for n in range(count)],
            "referral_source": [f"utm{n:05}@example.org" if n % 3 else "search" for n in range(count)],
        }
    )


def train_on_incomes(models: Path) -> Path:
    """Train a bundle and return its folder."""
    at, rules = datetime(2026, 11, 23, 9, tzinfo=UTC), TrainingRules(search=SearchRules(trials=0))
    return train(
        incomes(), CONTRACT, models, trained_at=at, until=at, label_window_days=14, threads=1, rules=rules
    ).folder
