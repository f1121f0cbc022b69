"""Settings of training: reads `config/training.yml` and fills in defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from core.config_file import read_optional_yaml
from core.errors import ContractError
from scoring.shared_values import MIN_USERS
from training.fitting.search import SearchRules
from training.leakage.screen import LeakRules
from training.promotion.comparison import ChallengeRules
from warehouse.loading.spelling import misspellings


class TrainingRules(BaseModel):
    """`config/training.yml`. `judged_users_ratio` is the share of users in the test set; the model never learns from them.

    The model sees a category level with fewer than `min_level_users` users as `other`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, lt=2**32)
    # Outside these bounds one of the two sides is empty.
    judged_users_ratio: float = Field(0.2, ge=0.01, le=0.99)
    min_level_users: int = Field(MIN_USERS, ge=MIN_USERS, le=1_000_000)
    search: SearchRules = SearchRules()
    leaks: LeakRules = LeakRules()
    challenge: ChallengeRules = ChallengeRules()


def check_trusted(rules: TrainingRules, features: Sequence[str]) -> None:
    """Check that every name in `leaks.trusted` is a feature: a misspelt name would trust no feature, and training would stop.

    Raises: ContractError.
    """
    unknown = [name for name in rules.leaks.trusted if name not in features]
    if unknown:
        near = misspellings(unknown, features)
        hint = f" Did you mean {', '.join(near.values())}?" if near else ""
        raise ContractError(
            f"training.yml: leaks.trusted names {', '.join(unknown)}, but features.yml has no such feature.{hint} Correct or "
            "remove it."
        )


def load_training(path: Path) -> TrainingRules:
    """Read the rules. Without the file, every default applies.

    Raises: ContractError with the file and its mistakes.
    """
    return read_optional_yaml(path, TrainingRules, "training rules") or TrainingRules()
