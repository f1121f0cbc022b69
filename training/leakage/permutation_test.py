"""Permutation test: labels permuted between users must not be predictable. If they are, a row reaches its label another way.

This tries the way from rows to scores: the encoding, the folds, the fitting. A feature that leaks it cannot see, for permuting
parts it from its label: `leak_screen` asks those.
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
    """Permute the labels between users, learn four fifths of the users, and return the AUC among the rest.

    `rank` is given all labels, learns the rows of a mask and scores every row; default is `boosted`. Each user's labels move to
    another place together, so that exits of one user still end alike.

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
            f"Trained on labels permuted between users, a model still foretells those of other users: AUC {short(auc)}, where "
            f"chance gives {short(0.5 - bound)} to {short(0.5 + bound)}. The making of the examples leaks: a row reaches "
            "its own label. Look at what is encoded or fitted with rows of the users who judge."
        )
    return auc


def permute(label: Labels, user: Codes, rng: np.random.Generator) -> Labels:
    """Lay the labels out user by user, the users shuffled, over the rows user by user."""
    place = rng.permutation(int(user.max()) + 1)
    permuted = np.empty_like(label)
    permuted[np.argsort(user, kind="stable")] = label[np.argsort(place[user], kind="stable")]
    return permuted


def boosted(seed: int) -> Rank:
    """Return a ranking by a small booster of the product's own making, stopped early by a fifth of the learned users."""

    def rank(rows: pa.Table, contract: FeatureContract, label: Labels, user: Codes, is_learned: Mask) -> Floats:
        learned = contract.learn(rows.filter(is_learned))
        matrix = learned.encode(rows, "The sample of examples")
        is_validation = is_learned & (np.random.default_rng(seed).random(int(user.max()) + 1)[user] < 1 / 5)
        is_fit = is_learned & ~is_validation
        if not is_validation.any() or not is_fit.any():
            return np.full(len(label), 0.5)
        # One thread: for so few rows others cost more than they give, ten times the time on a busy machine.
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
    """Return how many independent rows these are worth, if all exits of a user end alike (Kish's effective size)."""
    counts = np.bincount(user).astype(np.float64)
    return float(counts.sum() ** 2 / (counts**2).sum()) if len(user) else 0.0


def short(number: float) -> str:
    """Write a ratio without the zero that says nothing: .893."""
    return f"{number:.3f}".removeprefix("0")
