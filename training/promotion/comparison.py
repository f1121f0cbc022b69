"""Decides whether a challenger is really better. Both models are scored on the same exits, and intervals draw users, not exits.

Better means three things: the confidence interval of the metric's gain lies above zero; the AUC has not fallen by more than a
margin; and every large slice is calibrated. docs/adr/0019-promotion-on-evidence.md has the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from training.evaluation import metrics as evaluate
from training.evaluation.bootstrap import clusters, interval, resampled
from training.evaluation.metrics import Floats, Labels
from training.promotion.verdict import METRICS, Check, Metric, Scores, Verdict

# With fewer users an interval is too narrow (A. C. Cameron and D. L. Miller, 2015, section VI: few is less than 20 to 50).
MIN_USERS = 50
# Allowed calibration error of a slice, in standard deviations of its noise: chance exceeds it once in 4,000.
NOISE_DEVIATIONS = 3.5
ALL_EXITS = "all exits"
_LEAST = 1e-7  # single precision cannot represent a probability closer to 1


class ChallengeRules(BaseModel):
    """Conditions of a promotion. `confidence` is that of the gain's two-sided interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Metric = "brier"
    resamples: int = Field(2_000, ge=200, le=100_000)
    confidence: float = Field(0.95, ge=0.5, lt=1)
    max_auc_loss: float = Field(0.005, ge=0, le=0.5)
    max_calibration_error: float = Field(0.05, gt=0, le=1)
    min_slice_rows: int = Field(500, ge=100, le=1_000_000_000)
    min_examples: int = Field(1_000, ge=100, le=1_000_000_000)


def judge(
    label: Labels,
    users: Any,
    champion: Floats,
    challenger: Floats,
    slices: Mapping[str, Sequence[str | None]],
    *,
    rules: ChallengeRules,
    seed: int = 0,
    versions: tuple[str, str] = ("champion", "challenger"),
    exited_at: tuple[datetime, datetime] | None = None,
) -> Verdict:
    """Compare two models' probabilities of the same exits.

    `label` is 0 or 1, `users` holds each exit's user id, `slices` each exit's part by each way to cut them. `versions` names
    champion and challenger; `exited_at` is the first and the last exit. The result does not depend on the order of the rows.
    """
    codes = clusters(users)
    # The order of the rows changes the last digit of sums, and the bins of ties.
    order = np.lexsort((challenger, champion, label, codes))
    codes, label = codes[order], np.asarray(label)[order]
    rivals = [np.asarray(each, dtype=np.float64)[order] for each in (champion, challenger)]
    parts = {way: np.array(["unknown" if n is None else n for n in names])[order] for way, names in slices.items()}
    count_users = int(codes.max()) + 1 if len(codes) else 0
    facts: dict[str, Any] = {"count_examples": len(label), "count_users": count_users}
    if exited_at:
        facts |= {"first_exited_at": exited_at[0], "last_exited_at": exited_at[1]}

    enough = _enough(label, count_users, rules)
    if not all(check.is_passed for check in enough):
        return concluded(enough, rules, seed, versions, **facts)
    before, after = (_scores(label, probability) for probability in rivals)
    difference = _loss(label, rivals[0], rules.metric) - _loss(label, rivals[1], rules.metric)
    samples = resampled(difference[:, np.newaxis], codes, seed, rules.resamples)[:, 0]
    gain, (low, high) = float(difference.mean()), interval(samples, rules.confidence)
    checks = [*enough, _gained(gain, low, high, rules), _ranked(before, after, rules)]
    checks += _calibrated(label, codes, rivals, parts, rules)
    facts |= {"champion_scores": before, "challenger_scores": after, "gain": gain, "gain_low": low, "gain_high": high}
    return concluded(checks, rules, seed, versions, **facts)


def concluded(
    checks: Sequence[Check], rules: ChallengeRules, seed: int, versions: tuple[str, str], **facts: Any
) -> Verdict:
    """Return the verdict that follows from the checks: better when all have passed."""
    return Verdict(
        champion=versions[0],
        challenger=versions[1],
        is_better=all(check.is_passed for check in checks),
        says=said(checks),
        metric=rules.metric,
        confidence=rules.confidence,
        resamples=rules.resamples,
        seed=seed,
        checks=tuple(checks),
        **facts,
    )


def said(checks: Sequence[Check]) -> str:
    """Return the sentence of a verdict: the failed checks, or how much better the challenger is."""
    failed = [check.says for check in checks if not check.is_passed]
    return " ".join(["Not better.", *failed] if failed else ["Better.", *(c.says for c in checks if c.name == "gain")])


def chance_error(probability: Floats, users: npt.NDArray[np.int64]) -> float:
    """Return the calibration error that a perfectly calibrated model exceeds about once in 4,000 times.

    The error is a mean over bins of |predicted - observed|, so noise alone makes it positive (J. Bröcker and L. A. Smith,
    2007, https://doi.org/10.1175/WAF993.1; A. Kumar et al., 2019, https://arxiv.org/abs/1909.10155). The observed rate of a
    bin is normal about the predicted one, so its distance is half-normal, of mean s sqrt(2/pi) and variance s^2 (1 - 2/pi).
    The result is the mean over the bins plus 3.5 standard deviations. s treats a user's exits in a bin as ending the same way,
    the strongest possible correlation. With one exit per user it is the binomial sqrt(sum p(1-p)) / n.
    """
    deviation = np.sqrt(probability * (1 - probability))
    count = len(probability)
    # s of each bin, times its share of the rows.
    scaled = [
        np.sqrt(np.square(np.bincount(users[part], deviation[part])).sum()) / count
        for part in np.array_split(np.argsort(probability, kind="stable"), evaluate.COUNT_BINS)
    ]
    mean, variance = np.sqrt(2 / np.pi) * np.sum(scaled), (1 - 2 / np.pi) * np.square(scaled).sum()
    return float(mean + NOISE_DEVIATIONS * np.sqrt(variance))


def _enough(label: Labels, count_users: int, rules: ChallengeRules) -> list[Check]:
    outcomes = len(np.unique(label))
    found = (
        ("examples", len(label), rules.min_examples, "exits", "can judge"),
        ("users", count_users, MIN_USERS, "users", "left them"),
        ("outcomes", outcomes, 2, "outcomes", "occur among them"),
    )
    return [
        Check(
            name=name,
            value=count,
            bound=least,
            is_passed=count >= least,
            says=f"{count:,} {noun} {verb}, {least:,} are needed.",
        )
        for name, count, least, noun, verb in found
    ]


def _scores(label: Labels, probability: Floats) -> Scores:
    return Scores(
        auc=evaluate.auc(label, probability) or 0.0,
        brier=float(_loss(label, probability, "brier").mean()),
        log_loss=float(_loss(label, probability, "log_loss").mean()),
        calibration_error=evaluate.calibration_error(label, probability),
    )


def _loss(label: Labels, probability: Floats, metric: Metric) -> Floats:
    """Each row's squared error, or its log loss in nats."""
    if metric == "brier":
        return np.square(probability - label)
    told = np.where(label == 1, probability, 1 - probability)
    surprise: Floats = -np.log(np.maximum(told, _LEAST))
    return surprise


def _gained(gain: float, low: float, high: float, rules: ChallengeRules) -> Check:
    name = METRICS[rules.metric]
    between = f"{100 * rules.confidence:g} % interval {low:+.5f} to {high:+.5f}"
    if low > 0:
        end = "which lies above zero."
    elif high < 0:
        end = "which lies below zero: the challenger is worse."
    else:
        end = "which does not exclude zero."
    says = f"The challenger's {name} is {'lower' if gain >= 0 else 'higher'} by {abs(gain):.5f}; gain {between}, {end}"
    return Check(name="gain", value=low, bound=0.0, is_passed=low > 0, says=says)


def _ranked(before: Scores, after: Scores, rules: ChallengeRules) -> Check:
    loss = before.auc - after.auc
    says = f"AUC goes from {before.auc:.4f} to {after.auc:.4f}; it may fall by {rules.max_auc_loss:g}."
    return Check(name="auc", value=loss, bound=rules.max_auc_loss, is_passed=loss <= rules.max_auc_loss, says=says)


def _calibrated(
    label: Labels,
    users: npt.NDArray[np.int64],
    rivals: Sequence[Floats],
    parts: Mapping[str, npt.NDArray[np.str_]],
    rules: ChallengeRules,
) -> list[Check]:
    """Check all exits and each slice with enough rows. The champion's error is reported, but has no effect."""
    masks = {ALL_EXITS: np.ones(len(label), dtype=bool)}
    for way, names in parts.items():
        masks |= {f"{way}: {name}": names == name for name in np.unique(names)}
    checks = []
    for name, rows in masks.items():
        # The name of a slice is a value of its users, so it is kept only if enough users share it to leave the warehouse.
        is_small = rows.sum() < rules.min_slice_rows or len(np.unique(users[rows])) < MIN_USERS
        if is_small and name != ALL_EXITS:
            continue
        champion, challenger = (evaluate.calibration_error(label[rows], each[rows]) for each in rivals)
        bound = max(rules.max_calibration_error, chance_error(rivals[1][rows], users[rows]))
        says = (
            f"The calibration error on {name} ({rows.sum():,}) is {challenger:.4f}, at most {bound:.4f} is allowed; "
            f"the champion's is {champion:.4f}."
        )
        passed = challenger <= bound
        checks.append(Check(name=f"calibration, {name}", value=challenger, bound=bound, is_passed=passed, says=says))
    return checks
