"""Search of settings: `booster.PARAMETERS`, or one of a few random draws that does better on the validation rows.

Random draws instead of a grid: few settings matter, and each draw tries new values of all (Bergstra and Bengio, JMLR 2012).
The budget is a number of trials. A budget of seconds would give another model on another machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from sklearn.model_selection import ParameterSampler

from scoring.features import FeatureContract, Matrix
from training.evaluation.metrics import Labels
from training.fitting.booster import PARAMETERS, Fitter, Parameters

# Around the settings that did well on the loan log. `leaf_ratio` and its cap keep the leaves heavy.
SPACE: dict[str, list[float]] = {
    "max_depth": [3, 4, 5, 6],
    "eta": [0.03, 0.05, 0.08],
    "subsample": [0.5, 0.6, 0.8, 1.0],
    "colsample_bytree": [0.3, 0.5, 0.8],
    "lambda": [1, 10, 30],
    "max_leaf_weight": [30, 100, 300],
}


class SearchRules(BaseModel):
    """`search` in `config/training.yml`: the number of settings tried beside the usual ones, and the maximum number of rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(4, ge=0, le=200)
    max_rows: int = Field(200_000, ge=1_000, le=1_000_000_000)


@dataclass(frozen=True)
class Trial:
    """Settings, and the log loss of the validation rows under them."""

    parameters: Parameters
    log_loss: float
    rounds: int


def search(
    contract: FeatureContract,
    fit: tuple[Matrix, Labels],
    validation: tuple[Matrix, Labels],
    rules: SearchRules,
    *,
    seed: int,
    threads: int,
) -> list[Trial]:
    """Try the usual settings and `rules.trials` drawn ones. The best comes first; of equal ones, the one tried first.

    With no trials, the list is empty and the usual settings apply.
    """
    if not rules.trials:
        return []
    usual = {name: PARAMETERS[name] for name in SPACE}
    drawn = [dict(sorted(d.items())) for d in ParameterSampler(SPACE, rules.trials, random_state=seed)]
    rng = np.random.default_rng(seed)
    rows = len(fit[1])
    picked = np.sort(rng.choice(rows, rules.max_rows, replace=False)) if rows > rules.max_rows else np.arange(rows)
    tried = []
    for parameters in [usual, *drawn]:
        fitter = Fitter(contract, seed=seed, threads=threads, parameters=parameters)
        fitted = fitter.fit(fit[0][picked], fit[1][picked], validation)
        tried.append(Trial(parameters, fitted.log_loss, fitted.rounds))
    return sorted(tried, key=lambda trial: trial.log_loss)
