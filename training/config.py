"""Settings of training: `config/training.yml`, and the defaults of what it leaves out."""

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
    """`config/training.yml`. `judged_users_ratio` of the users are never learned from: they judge.

    A category level that fewer than `min_level_users` have is `other` to the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, lt=2**32)
    # Beyond these shares one of the two sides has nobody.
    judged_users_ratio: float = Field(0.2, ge=0.01, le=0.99)
    min_level_users: int = Field(MIN_USERS, ge=MIN_USERS, le=1_000_000)
    search: SearchRules = SearchRules()
    leaks: LeakRules = LeakRules()
    challenge: ChallengeRules = ChallengeRules()


def check_trusted(rules: TrainingRules, features: Sequence[str]) -> None:
    """See that what `leaks.trusted` names are features: a misspelt one would be stopped all the same.

    Raises: ContractError.
    """
    unknown = [name for name in rules.leaks.trusted if name not in features]
    if unknown:
        near = misspellings(unknown, features)
        hint = f" Did you mean {', '.join(near.values())}?" if near else ""
        raise ContractError(
            f"training.yml: leaks.trusted names {', '.join(unknown)}, and features.yml has no such feature.{hint} Correct it, or "
            "take it out."
        )


def load_training(path: Path) -> TrainingRules:
    """Read the rules; without the file, every default holds.

    Raises: ContractError with the file and what is wrong in it.
    """
    return read_optional_yaml(path, TrainingRules, "training rules") or TrainingRules()
