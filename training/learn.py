"""What is learned from one side of a split? Category lists and medians, settings, a booster, and a map for its probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scoring.calibration import Calibration
from scoring.contract import FeatureContract, Matrix
from training.calibrate import calibrate
from training.config import TrainingRules
from training.evaluate import Floats, Labels
from training.fit import Fitted, Fitter
from training.search import Trial, search
from training.split import Split


@dataclass(frozen=True)
class Learned:
    """A model in memory, and how it came about. `matrix` holds all rows, encoded by the contract that was learned."""

    contract: FeatureContract
    matrix: Matrix
    fitter: Fitter
    fitted: Fitted
    calibration: Calibration
    trials: list[Trial]

    def raw(self, part: npt.NDArray[np.int64]) -> Floats:
        """Return the booster's probabilities of these rows."""
        return self.fitter.probability(self.fitted.booster, self.matrix[part])

    def probability(self, part: npt.NDArray[np.int64]) -> Floats:
        """Return the probabilities of these rows as they will be used."""
        return self.calibration.apply(self.raw(part))


def learn(
    contract: FeatureContract,
    matrix: Matrix,
    label: Labels,
    user_share: Floats,
    split: Split,
    *,
    rules: TrainingRules,
    threads: int,
    advance: Callable[[str], None],
) -> Learned:
    """Learn from fit and validation alone. The contract is one that learned from them too, and encoded the matrix of all rows."""
    fit, validation = ((matrix[part], label[part]) for part in (split.fit, split.validation))
    advance("search")
    trials = search(contract, fit, validation, rules.search, seed=rules.seed, threads=threads)
    advance("fit")
    parameters = trials[0].parameters if trials else None
    fitter = Fitter(contract, seed=rules.seed, threads=threads, parameters=parameters)
    fitted = fitter.fit(*fit, validation)
    # The learned users' shares lie on one stretch; whoever is beyond its middle is in the other half, with all of their exits.
    shares = user_share[split.validation]
    calibration = calibrate(
        validation[1],
        fitter.probability(fitted.booster, validation[0]),
        shares,
        shares < np.median(shares),
        rules.seed,
    )
    return Learned(contract, matrix, fitter, fitted, calibration, trials)
