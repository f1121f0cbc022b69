"""What may be set about training? `config/training.yml`, and what holds where it says nothing."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from scoring.shared_values import MIN_USERS
from training.challenge import ChallengeRules
from training.leak_screen import LeakRules
from training.search import SearchRules
from warehouse.yaml_files import read_optional_yaml


class TrainingRules(BaseModel):
    """`config/training.yml`. `judged_users_ratio` of the users are never learned from: they judge.

    A category level that fewer than `min_level_users` have is `other` to the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, lt=2**32)
    judged_users_ratio: float = Field(0.2, gt=0, lt=1)
    min_level_users: int = Field(MIN_USERS, ge=MIN_USERS)
    search: SearchRules = SearchRules()
    leaks: LeakRules = LeakRules()
    challenge: ChallengeRules = ChallengeRules()


def load_training(path: Path) -> TrainingRules:
    """Read the rules; without the file, every default holds.

    Raises: ContractError with the file and what is wrong in it.
    """
    return read_optional_yaml(path, TrainingRules, "training rules") or TrainingRules()
