"""Fits a model on one side of a split: category lists and medians, settings, a booster, and a calibration map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from scoring.calibration import Calibration
from scoring.features import FeatureContract, Matrix
from training.config import TrainingRules
from training.evaluation.metrics import Floats, Labels
from training.fitting.booster import Fitted, Fitter
from training.fitting.calibrate import calibrate
from training.fitting.search import Trial, search
from training.fitting.thresholds import without_values


@dataclass(frozen=True)
class Learned:
    """A model in memory, and how it was fitted.

    `fit` are the rows that its trees were fitted on, encoded by its contract. `fit_users` is a number for each row's user.
    """

    contract: FeatureContract
    fitter: Fitter
    fitted: Fitted
    calibration: Calibration
    trials: list[Trial]
    fit: tuple[Matrix, Labels]
    fit_users: Floats

    def raw(self, matrix: Matrix) -> Floats:
        """Return the booster's probabilities of encoded rows."""
        return self.fitter.probability(self.fitted.booster, matrix)

    def probability(self, matrix: Matrix) -> Floats:
        """Return the probabilities of encoded rows after calibration."""
        return self.calibration.apply(self.raw(matrix))


def learn(
    contract: FeatureContract,
    matrix: Matrix,
    label: Labels,
    user_share: Floats,
    *,
    count_fit: int,
    rules: TrainingRules,
    threads: int,
    advance: Callable[[str], None],
) -> Learned:
    """Fit on encoded rows. The first `count_fit` rows make the trees; the others stop the fit early and calibrate it.

    `label` and `user_share` (of `training.fitting.split.share`) have one value per row.
    """
    fit, validation = (matrix[:count_fit], label[:count_fit]), (matrix[count_fit:], label[count_fit:])
    advance("Training: searching the parameters")
    trials = search(contract, fit, validation, rules.search, seed=rules.seed, threads=threads)
    advance("Training: fitting the model")
    parameters = trials[0].parameters if trials else None
    fitter = Fitter(contract, seed=rules.seed, threads=threads, parameters=parameters)
    fitted = fitter.fit(*fit, validation)
    # Before any measurement, so that the measured model is the one that ships. Each user has a share of their own.
    fitted = replace(fitted, booster=without_values(fitted.booster, contract, fit[0], user_share[:count_fit]))
    # The shares of learned users fill one range. Cut at its median, so that all exits of a user are in the same half.
    shares = user_share[count_fit:]
    calibration = calibrate(
        validation[1],
        fitter.probability(fitted.booster, validation[0]),
        shares,
        shares < np.median(shares),
        rules.seed,
    )
    return Learned(contract, fitter, fitted, calibration, trials, fit, user_share[:count_fit])
