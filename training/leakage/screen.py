"""Leak screen: training stops and names a feature that reveals what only the outcome could reveal.

Each feature is tested alone, in every view of `leakage.views`. The score of a level is the label's mean, out of fold: exits are
ranked only by what other users' exits show. An honest feature ranks a little; one written after the outcome ranks nearly all.
If the parity or last decimal of a value ranks well but the value itself does not, the SQL that wrote it knew the label.

Limitations: it misses a leak spread over several features, and values that grew after the exit without revealing the outcome.
Examples hold features as they were logged, and nothing rewrites them. `winback audit` compares the hourly tables with the raw
events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from core.errors import ContractError
from scoring.features import FeatureContract
from training.evaluation.bootstrap import clusters
from training.evaluation.metrics import Labels
from training.leakage.permutation_test import Rank, auc_error, effective, permuted_auc, short
from training.leakage.views import Codes, views

# Columns of the examples and of the outcomes that are computed from events after the exit.
LABEL_SIDE = frozenset(
    {"label", "label_until", "experiment_arm", "is_treated", "outcome", "first_outcome_at"}
    | {f"{what}{when}_at" for what in ("finished", "gave_up", "closed") for when in ("", "_effective")}
)
SHRINKAGE_ROWS = 10  # at this many rows, a level's mean has half of the weight
# Of views within this AUC of each other, the report names the simplest.
TIE = 0.01
# A number's digits or a text's length should not rank better than the value: .011 at most on honest data of 20,000 exits.
HIDDEN_MARGIN = 0.05
# The bound tested lies this many standard errors below the AUC. Hidden views are many, so one looks good by chance:
# with 2 errors, 3 of 40 honest sets of 200 exits and a handful of unfinished ones were stopped; with 4, none.
SIGMAS, HIDDEN_SIGMAS = 2, 4
MAX_NAMED = 5


class LeakRules(BaseModel):
    """`leaks` in `config/training.yml`: when a feature is a leak. `trusted` features are screened but never stop training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Honest maxima: .789 on the loan log (last_event_name), .746 in the sandbox (fields_filled_ratio). A copy of the label with
    # a tenth of its values wrong has .90.
    max_auc: float = Field(0.88, gt=0.5, le=1)
    # For a view that ranks better than the value. Honest data has about .5, and more in amounts that careful people do not round.
    max_hidden_auc: float = Field(0.65, gt=0.5, le=1)
    # For a feature that ranks well and is known at the exit. State the reason in a comment beside it.
    trusted: tuple[str, ...] = ()
    folds: int = Field(5, ge=2, le=20)
    # The standard error of an AUC of .88 is then .0015. More rows would only take longer.
    max_rows: int = Field(50_000, ge=1_000, le=1_000_000_000)
    max_permuted_rows: int = Field(20_000, ge=1_000, le=1_000_000_000)
    # In standard errors on either side. At 4, chance alone stops one training in 16,000.
    permuted_sigmas: float = Field(4, gt=0, le=100)


@dataclass(frozen=True)
class Screened:
    """AUC of one feature alone, and the view with that AUC."""

    name: str
    auc: float
    view: str
    is_leak: bool


@dataclass(frozen=True)
class Screen:
    """Features that passed, the highest AUC first. `permuted_auc` is None where the test users all have one outcome."""

    features: tuple[Screened, ...]
    permuted_auc: float | None
    count_rows: int


def screen(
    rows: pa.Table,
    contract: FeatureContract,
    label: Labels,
    users: pa.ChunkedArray,
    *,
    rules: LeakRules,
    seed: int,
    rank: Rank | None = None,
) -> Screen:
    """Test each feature of `contract` alone, then train on labels that were permuted between users.

    `rows` are examples in the contract's columns; `label` (0 or 1) and `users` (ids) have one value per row. A fold holds all
    exits of its users. `rank` learns the permuted labels; the default is a booster.

    Raises: ContractError naming the features that leak, or reporting that permuted labels are predictable.
    """
    refuse_label_side(contract)
    refuse_later_events(rows)
    rng = np.random.default_rng(seed)
    if rows.num_rows > rules.max_rows:
        picked = np.sort(rng.choice(rows.num_rows, rules.max_rows, replace=False))
        rows, label, users = rows.take(picked), label[picked], users.take(picked)
    user = clusters(users)
    fold = (rng.permutation(int(user.max()) + 1) % rules.folds)[user]
    ask = _Asker(label, user, fold, rules)
    found = [ask.feature(f.name, rows.column(f.name)) for f in contract.features]
    leaks = [f for f in found if f.is_leak]
    if leaks:
        raise ContractError(_named(leaks))
    auc = permuted_auc(
        rows,
        contract,
        label,
        user,
        max_rows=rules.max_permuted_rows,
        sigmas=rules.permuted_sigmas,
        seed=seed,
        rank=rank,
    )
    return Screen(tuple(sorted(found, key=lambda f: -f.auc)), auc, rows.num_rows)


def refuse_label_side(contract: FeatureContract) -> None:
    """Refuse features with the name of a column that is known only after the exit.

    Raises: ContractError naming them.
    """
    later = [name for name in contract.names if name.lower() in LABEL_SIDE]
    if later:
        raise ContractError(
            f"config/features.yml declares {', '.join(later)}. This is known only after the exit, so it is missing when an exit "
            "is scored. Remove it."
        )


def refuse_later_events(rows: pa.Table) -> None:
    """Refuse examples whose features were made from events after their exit, by the column `last_event_at`.

    Raises: ContractError with the count of rows.
    """
    if not {"last_event_at", "exited_at"} <= set(rows.column_names):
        return
    count = pc.sum(pc.greater(rows.column("last_event_at"), rows.column("exited_at"))).as_py() or 0
    if count:
        raise ContractError(
            f"{count} of {rows.num_rows} examples have features made from events after their exit (last_event_at > "
            "exited_at). The model would learn the future. Repair fct_exit_features in dbt."
        )


def out_of_fold_auc(codes: Codes, fold: Codes, label: Labels, folds: int) -> float:
    """Return the AUC of the label's mean by level, learned from the other folds, within the rows of each fold.

    Only rows of one fold are compared, because their scores come from the same rows. Ties count half; .5 without any pair.
    """
    levels = int(codes.max()) + 1
    cells = np.bincount((codes * folds + fold) * 2 + label, minlength=levels * folds * 2).reshape(levels, folds, 2)
    others = cells.sum(axis=1, keepdims=True) - cells
    totals = others.sum(axis=0)
    prior = totals[:, 1] / np.maximum(totals.sum(axis=1), 1)
    rate = (others[..., 1] + SHRINKAGE_ROWS * prior) / (others.sum(axis=2) + SHRINKAGE_ROWS)
    wins = pairs = 0.0
    for one in range(folds):
        held = np.flatnonzero(cells[:, one].any(axis=1))
        if not len(held):
            continue
        order = held[np.argsort(rate[held, one], kind="stable")]
        scores = rate[order, one]
        starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
        negative, positive = np.add.reduceat(cells[order, one].astype(np.float64), starts, axis=0).T
        wins += float(positive @ (np.cumsum(negative) - negative / 2))
        pairs += float(positive.sum() * negative.sum())
    return wins / pairs if pairs else 0.5


class _Asker:
    """Tests features against the same labels in the same folds."""

    def __init__(self, label: Labels, user: Codes, fold: Codes, rules: LeakRules) -> None:
        self.label, self.fold, self.rules = label, fold, rules
        self.positives, self.negatives = (effective(user[label == value]) for value in (1, 0))

    def feature(self, name: str, column: pa.ChunkedArray) -> Screened:
        best = {False: (0.5, "its value"), True: (0.5, "its value")}
        for view in views(column):
            auc = out_of_fold_auc(view.codes, self.fold, self.label, self.rules.folds)
            if auc > best[view.is_hidden][0] + TIE:
                best[view.is_hidden] = auc, view.words
        plain, hidden = best[False], best[True]
        auc, words = hidden if hidden[0] > plain[0] + TIE else plain
        is_odd = self._at_least(hidden[0], HIDDEN_SIGMAS) >= max(plain[0] + HIDDEN_MARGIN, self.rules.max_hidden_auc)
        is_leak = is_odd or self._at_least(auc, SIGMAS) >= self.rules.max_auc
        return Screened(name, auc, words, is_leak and name not in self.rules.trusted)

    def _at_least(self, auc: float, sigmas: float) -> float:
        """Return the AUC's lower bound, shrunk toward .5 by one pair, because three exits ranked perfectly prove little."""
        least = min(self.positives, self.negatives)
        if not least:
            return 0.0
        careful = (auc * least + 0.5) / (least + 1)
        return careful - sigmas * auc_error(careful, self.positives, self.negatives)


def _named(leaks: list[Screened]) -> str:
    worst = sorted(leaks, key=lambda f: -f.auc)
    lines = [
        f"Feature {f.name} alone separates finished from unfinished exits (AUC {short(f.auc)}, by {f.view})."
        for f in worst[:MAX_NAMED]
    ]
    if len(worst) > MAX_NAMED:
        lines.append(f"So do {len(worst) - MAX_NAMED} more: {', '.join(f.name for f in worst[MAX_NAMED:])}.")
    it_was, it = ("It was", "it") if len(worst) == 1 else ("They were", "them")
    lines.append(
        f"{it_was} probably known only after the exit. Remove {it} from config/features.yml or repair the SQL. If a feature is "
        "really known at the exit, list it under leaks.trusted in config/training.yml."
    )
    return "\n".join(lines)
