"""Ranking measures of weighted rows: one sort, then a pass over cumulative weights per draw.

Rows with equal probabilities are one step. The order of tied rows is random, so every measure takes its expectation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

TOP_PERCENTS = (5, 10, 20)


class Ranking:
    """Test rows, sorted once by falling probability. `measures` costs one pass for any weights."""

    def __init__(self, label: Labels, probability: Floats) -> None:
        """Rank the rows: arrays of shape (rows,)."""
        self._order = np.argsort(-probability, kind="stable")
        ranked = probability[self._order]
        self._label = label[self._order].astype(np.float64)
        self._starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(ranked) else None

    def _cumulated(self, weights: Floats | None) -> tuple[Floats, Floats, Floats, Floats]:
        ones = np.ones(len(self._label)) if weights is None else weights[self._order]
        positive = ones * self._label
        negative = ones - positive
        if self._starts is not None and len(self._starts) < len(ones):
            positive = np.add.reduceat(positive, self._starts)
            negative = np.add.reduceat(negative, self._starts)
        return positive, negative, np.cumsum(positive), np.cumsum(negative)

    def auc(self, weights: Floats | None = None) -> float:
        """Return how often a row of label 1 ranks above one of label 0; NaN with only one label."""
        return _auc(*self._cumulated(weights))

    def measures(self, weights: Floats | None = None) -> dict[str, float]:
        """Return AUC, average precision, and gain and lift at the top percents; NaN where undefined."""
        positive, negative, found, wrong = self._cumulated(weights)
        answered = found + wrong
        total = found[-1]
        if total == 0:
            names = ["auc", "average_precision"]
            names += [f"{measure}_at_{p}_percent" for p in TOP_PERCENTS for measure in ("gain", "lift")]
            return dict.fromkeys(names, float("nan"))
        precision = np.divide(found, answered, out=np.zeros_like(found), where=answered > 0)
        measured = {
            "auc": _auc(positive, negative, found, wrong),
            "average_precision": float((positive * precision).sum() / total),
        }
        x, y = np.concatenate([[0.0], answered]), np.concatenate([[0.0], found])
        for percent in TOP_PERCENTS:
            gain = float(np.interp(percent / 100 * answered[-1], x, y) / total)
            measured |= {f"gain_at_{percent}_percent": gain, f"lift_at_{percent}_percent": gain * 100 / percent}
        return measured


def _auc(positive: Floats, negative: Floats, found: Floats, wrong: Floats) -> float:
    pairs = found[-1] * wrong[-1]
    return float((negative * (found - positive / 2)).sum() / pairs) if pairs > 0 else float("nan")
