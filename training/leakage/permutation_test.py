"""Permutation test: labels permuted between users must not be predictable. If they are, the pipeline leaks labels into rows.

The test covers the way from rows to scores: the encoding, the folds, the fitting. It cannot detect a leaking feature, because
permutation breaks the link between the feature and its label. `leakage.screen` finds those.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.metrics import roc_auc_score

from core.errors import ContractError
from scoring.features import FeatureContract
from training.evaluation.metrics import Floats, Labels
from training.fitting.booster import Fitter

Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Rank = Callable[[pa.Table, FeatureContract, Labels, Codes, Mask], Floats]


def permuted_auc(
    rows: pa.Table,
    contract: FeatureContract,
    label: Labels,
    user: Codes,
    *,
    max_rows: int,
    sigmas: float,
    seed: int,
    rank: Rank | None = None,
) -> float | None:
    """Permute the labels between users, learn from four fifths of the users, and return the AUC on the rest.

    `rank` receives all labels, learns from the rows of a mask and scores every row; the default is `boosted`. The labels of one
    user move together, so that exits of one user still end the same way.

    Raises: ContractError when the AUC is further from .5 than chance explains.
    """
    rng = np.random.default_rng(seed)
    if rows.num_rows > max_rows:
        picked = np.sort(rng.choice(rows.num_rows, max_rows, replace=False))
        rows, label, user = rows.take(picked), label[picked], user[picked]
    permuted = permute(label, user, rng)
    is_judged = rng.random(int(user.max()) + 1)[user] < 1 / 5
    judged = permuted[is_judged]
    positives, negatives = (effective(user[is_judged & (permuted == value)]) for value in (1, 0))
    if not positives or not negatives or len(np.unique(permuted[~is_judged])) < 2:
        return None
    auc = float(roc_auc_score(judged, (rank or boosted(seed))(rows, contract, permuted, user, ~is_judged)[is_judged]))
    bound = sigmas * auc_error(0.5, positives, negatives)
    if abs(auc - 0.5) > bound:
        raise ContractError(
            f"A model trained on labels permuted between users still predicts those of other users: AUC {short(auc)}. "
            f"Chance gives {short(0.5 - bound)} to {short(0.5 + bound)}. The pipeline leaks labels into rows. "
            "Check what is encoded or fitted with rows of the test users."
        )
    return auc


def permute(label: Labels, user: Codes, rng: np.random.Generator) -> Labels:
    """Shuffle the users, and give their labels in that order to the rows sorted by user."""
    place = rng.permutation(int(user.max()) + 1)
    permuted = np.empty_like(label)
    permuted[np.argsort(user, kind="stable")] = label[np.argsort(place[user], kind="stable")]
    return permuted


def boosted(seed: int) -> Rank:
    """Return a ranking by a small booster with this project's settings, stopped early by a fifth of the learned users."""

    def rank(rows: pa.Table, contract: FeatureContract, label: Labels, user: Codes, is_learned: Mask) -> Floats:
        learned = contract.learn(rows.filter(is_learned))
        matrix = learned.encode(rows, "The sample of examples")
        is_validation = is_learned & (np.random.default_rng(seed).random(int(user.max()) + 1)[user] < 1 / 5)
        is_fit = is_learned & ~is_validation
        if not is_validation.any() or not is_fit.any():
            return np.full(len(label), 0.5)
        # One thread: with so few rows, more threads took ten times as long on a busy machine.
        fitter = Fitter(learned, seed=seed, threads=1, parameters={"eta": 0.3})
        fitted = fitter.fit(matrix[is_fit], label[is_fit], (matrix[is_validation], label[is_validation]))
        return fitter.probability(fitted.booster, matrix)

    return rank


def auc_error(auc: float, positives: float, negatives: float) -> float:
    """Return the standard error of an AUC (Hanley and McNeil, Radiology 143, 1982)."""
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (one - auc**2) + (negatives - 1) * (two - auc**2)
    return float(np.sqrt(max(spread, 0) / (positives * negatives)))


def effective(user: Codes) -> float:
    """Return the effective number of independent rows if all exits of a user end the same way (Kish's effective size)."""
    counts = np.bincount(user).astype(np.float64)
    return float(counts.sum() ** 2 / (counts**2).sum()) if len(user) else 0.0


def short(number: float) -> str:
    """Format a ratio without its leading zero: .893."""
    return f"{number:.3f}".removeprefix("0")
