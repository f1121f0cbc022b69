"""Checks with real fits on a known truth that `winback evaluate` promotes better models, and no lucky ones.

A simulated app: users with one to five exits each, whose probability of not finishing depends on six features and on a hidden
trait of the user. Champion and challenger are XGBoost fits on exits of some users. `training.promotion.comparison` compares them
on exits of other users, with the default rules. Two cases, 20 seeds each:

- noise: the challenger was fitted on other exits of the same kind, with nine additional random features, like columns that looked
  good. Any gain on one test is luck.
- better: the challenger has two of the six features that the champion lacks.
    python bench/challenge.py [--seeds 20] [--users 4000]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xgboost as xgb

from training.promotion.comparison import ChallengeRules, judge
from training.promotion.verdict import Verdict

Floats = npt.NDArray[np.float64]
WEIGHTS = np.array([1.2, -0.9, 0.7, 0.5, -0.6, 0.45])
KNOWN, ALL, NOISE = slice(0, 4), slice(0, 6), slice(0, 15)


@dataclass(frozen=True)
class Exits:
    """Exits with their features (six that matter, nine random), their true probabilities, and their outcomes."""

    users: npt.NDArray[np.int64]
    features: Floats
    truth: Floats
    label: npt.NDArray[np.int64]


def exits(rng: np.random.Generator, count_users: int) -> Exits:
    """Draw users and their exits."""
    users = np.repeat(np.arange(count_users), rng.integers(1, 6, count_users))
    lasting = rng.normal(size=(count_users, 3))[users]  # profile: the same at every exit of a user
    features = np.column_stack([lasting, rng.normal(size=(len(users), 12))])
    odds = -0.8 + features[:, ALL] @ WEIGHTS + 0.5 * features[:, 0] * features[:, 3]
    odds += rng.normal(0, 0.7, count_users)[users]  # the user's hidden trait
    truth = 1 / (1 + np.exp(-odds))
    return Exits(users, features, truth, (rng.random(len(users)) < truth).astype(np.int64))


def fit(known: Exits, seen: slice, seed: int) -> xgb.Booster:
    """Fit as training does, with early stopping on users outside the fit."""
    is_fitted = known.users % 5 != 0
    data = {
        name: xgb.DMatrix(known.features[rows][:, seen], known.label[rows])
        for name, rows in (("fit", is_fitted), ("validation", ~is_fitted))
    }
    settings = {
        "objective": "binary:logistic",
        "eta": 0.1,
        "max_depth": 4,
        "subsample": 0.8,
        "nthread": 1,
        "seed": seed,
    }
    booster = xgb.train(
        settings, data["fit"], 400, evals=[(data["validation"], "v")], early_stopping_rounds=20, verbose_eval=False
    )
    return booster[: booster.best_iteration + 1]


def verdict(seed: int, count_users: int, *, is_better: bool, rules: ChallengeRules) -> tuple[Verdict, float]:
    """Fit and compare both models on exits of users that neither knows. Returns the verdict and the true gain."""
    rng = np.random.default_rng(seed)
    old, new, later = (exits(rng, count_users) for _ in range(3))
    seen = {"champion": KNOWN if is_better else ALL, "challenger": ALL if is_better else NOISE}
    told: dict[str, Floats] = {}
    for name, known in (("champion", old), ("challenger", new)):
        data = xgb.DMatrix(later.features[:, seen[name]])
        told[name] = fit(known, seen[name], seed).predict(data).astype(np.float64)
    # Expected difference of the Brier scores over all possible outcomes of these exits.
    true_gain = float(np.mean((told["champion"] - later.truth) ** 2 - (told["challenger"] - later.truth) ** 2))
    device = np.where(later.features[:, 0] > 0, "mobile", "desktop").tolist()
    week = [f"W{number % 4}" for number in range(len(later.label))]
    slices = {"device": device, "week": week}
    found = judge(later.label, later.users, told["champion"], told["challenger"], slices, rules=rules, seed=seed)
    return found, true_gain


def main() -> None:
    """Print one line per seed, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--users", type=int, default=4_000)
    asked = parser.parse_args()
    rules, started = ChallengeRules(), time.monotonic()
    cases = {"noise": False, "better": True}
    promoted, ahead, lucky = (dict.fromkeys(cases, 0) for _ in range(3))
    for case, is_better in cases.items():
        for seed in range(asked.seeds):
            found, true_gain = verdict(seed, asked.users, is_better=is_better, rules=rules)
            failed = ", ".join(check.name for check in found.checks if not check.is_passed)
            print(
                f"{case:6} seed {seed:2} {found.count_examples:6,} exits  gain {found.gain:+.5f} "
                f"({found.gain_low:+.5f} to {found.gain_high:+.5f})  in truth {true_gain:+.5f}  {failed or 'PROMOTED'}"
            )
            promoted[case] += found.is_better
            ahead[case] += (found.gain or 0) > 0
            lucky[case] += found.is_better and true_gain <= 0
    for case in cases:
        print(
            f"{case}: promoted in {promoted[case]} of {asked.seeds} seeds, in {lucky[case]} without being better in truth; "
            f"by the metric alone it would have been {ahead[case]}"
        )
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
