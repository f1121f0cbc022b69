"""Plots of a model on the test exits, each a separate PNG.

Colours are from Okabe and Ito's palette for colour-blind readers; lines also differ by their dashes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation
from sklearn.metrics import roc_auc_score, roc_curve

from training.evaluation.feature_effects import Effect
from training.evaluation.metrics import LIFT_RATIO, Floats, Labels, calibration_bins
from training.evaluation.psi import LARGE

BLUE, ORANGE, GREY, INK = "#0072b2", "#d55e00", "#8a8f98", "#22262e"
COUNT_FEATURES = 12
# Each kind of picture, and its alternative text for screen readers.
PICTURES = {
    "ranking": "ROC curve: share of unfinished exits flagged against share of finished exits flagged.",
    "gain": "Cumulative gain: share of the unfinished exits in a list of the riskiest exits.",
    "calibration": "Calibration: observed against predicted share of unfinished exits.",
    "features": "The features with the largest mean contributions to the log odds.",
    "effect": "Predicted and observed share of unfinished exits along one feature.",
    "drift": "Population stability index of the features that changed most since the last model.",
}
_CURVE_POINTS = 400
_Z_95 = 1.96


@dataclass(frozen=True)
class Curves:
    """Data of the pictures: the test exits' labels and probabilities, and each feature's mean contribution.

    `uncalibrated` are the probabilities before calibration, None without a calibration map. `effects` and `drift` are results of
    `training.evaluation.feature_effects` and `training.evaluation.psi`.
    """

    label: Labels
    probability: Floats
    features: list[str]
    contributions: Floats
    uncalibrated: Floats | None = None
    effects: Sequence[Effect] = ()
    drift: Sequence[tuple[str, float]] | None = None


def draw(curves: Curves) -> dict[str, bytes]:
    """Return each picture's PNG by file name, 900 pixels wide. The same curves give the same bytes."""
    pictures: dict[str, Callable[[Axes], None]] = {
        "ranking.png": partial(_roc, curves=curves),
        "gain.png": partial(_gain, curves=curves),
        "calibration.png": partial(_calibration, curves=curves),
        "features.png": partial(_features, curves=curves),
    }
    # One scale for all effects, so that unimportant features look unimportant.
    highest = max((max(p.predicted, p.observed) for e in curves.effects for p in e.points), default=1.0)
    for rank, effect in enumerate(curves.effects, 1):
        pictures[f"effect_{rank}.png"] = partial(_effect, effect=effect, edge=min(1.0, 1.15 * highest))
    if curves.drift:
        pictures["drift.png"] = partial(_drift, drift=curves.drift)
    return {name: _png(paint) for name, paint in pictures.items()}


def _png(paint: Callable[[Axes], None]) -> bytes:
    figure = Figure(figsize=(6, 4.8), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.125, right=0.965, bottom=0.125, top=0.87)
    ax = figure.subplots()
    paint(ax)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#c5c9d0")
    ax.tick_params(color="#c5c9d0", labelcolor=INK, labelsize=11)
    ax.xaxis.label.set(color=INK, fontsize=12)
    ax.yaxis.label.set(color=INK, fontsize=12)
    ax.set_axisbelow(True)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _title(ax: Axes, title: str, subtitle: str) -> None:
    ax.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=24)
    place = ax.transAxes + ScaledTranslation(0, 8 / 72, ax.figure.dpi_scale_trans)
    ax.text(0, 1, subtitle, transform=place, fontsize=11, color="#5a606b")


def _percent(ax: Axes) -> None:
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.grid(color="#e8eaee", linewidth=0.8)


def _roc(ax: Axes, *, curves: Curves) -> None:
    false, true, _ = roc_curve(curves.label, curves.probability)
    _title(ax, f"Ranking: AUC {roc_auc_score(curves.label, curves.probability):.3f}", "0.5 is chance, 1 is perfect")
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.3, label="chance")
    ax.plot(false, true, color=BLUE, linewidth=2.2, label="model")
    ax.set(xlabel="finished, wrongly flagged", ylabel="unfinished, rightly flagged", xlim=(0, 1), ylim=(0, 1.005))
    _percent(ax)
    ax.legend(loc="lower right", frameon=False, fontsize=11)


def _calibration(ax: Axes, *, curves: Curves) -> None:
    bins = calibration_bins(curves.label, curves.probability)
    predicted = np.array([b.predicted for b in bins])
    observed = np.array([b.observed for b in bins])
    low, high = _wilson(observed, np.array([b.count for b in bins]))
    _title(ax, "Calibration", "each dot is a tenth of the test exits, with its 95% interval")
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.3, label="exactly true")
    ax.errorbar(
        predicted,
        observed,
        yerr=[np.maximum(observed - low, 0), np.maximum(high - observed, 0)],
        color=BLUE,
        marker="o",
        markersize=6,
        linewidth=1.6,
        elinewidth=1.4,
        capsize=3,
        label="model",
    )
    if curves.uncalibrated is not None:
        before = calibration_bins(curves.label, curves.uncalibrated)
        points = ([b.predicted for b in before], [b.observed for b in before])
        ax.plot(
            *points, color=ORANGE, linestyle=":", linewidth=1.6, marker="s", markersize=5, label="before calibration"
        )
        predicted = np.append(predicted, points[0])
    edge = min(1.0, 1.08 * float(max(predicted.max(), high.max())))
    ax.set(xlabel="predicted share unfinished", ylabel="observed share unfinished", xlim=(0, edge), ylim=(0, edge))
    _percent(ax)
    ax.legend(loc="upper left", frameon=False, fontsize=11)


def _wilson(rate: Floats, count: Labels) -> tuple[Floats, Floats]:
    """Return the bounds of the 95% interval of observed rates (Wilson, JASA 1927)."""
    z2 = _Z_95**2
    middle = (rate + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z_95 * np.sqrt(rate * (1 - rate) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return middle - half, middle + half


def _gain(ax: Axes, *, curves: Curves) -> None:
    order = np.argsort(-curves.probability, kind="stable")
    found = np.concatenate([[0.0], np.cumsum(curves.label[order]) / curves.label.sum()])
    asked = np.linspace(0, 1, len(found))
    point = max(1, int(len(order) * LIFT_RATIO))
    shown = np.unique(np.linspace(0, len(found) - 1, min(_CURVE_POINTS, len(found))).astype(np.int64))
    base_rate = float(curves.label.mean())
    subtitle = f"the riskiest 10% of exits hold {found[point]:.0%} of those that stay unfinished"
    _title(ax, "Cumulative gain", subtitle)
    ax.plot([0, base_rate, 1], [0, 1, 1], color=ORANGE, linestyle=":", linewidth=1.6, label="perfect")
    ax.plot(asked[shown], found[shown], color=BLUE, linewidth=2.2, label="model")
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.3, label="chance")
    ax.plot(asked[point], found[point], color=BLUE, marker="o", markersize=7)
    ax.set(xlabel="share of exits, riskiest first", ylabel="share of the unfinished reached")
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    _percent(ax)
    ax.legend(loc="lower right", frameon=False, fontsize=11)


def _features(ax: Axes, *, curves: Curves) -> None:
    top = np.argsort(-curves.contributions, kind="stable")[:COUNT_FEATURES]
    _title(ax, "Most important features", "mean contribution to the log odds, up or down")
    _bars(ax, [(curves.features[index], float(curves.contributions[index])) for index in top.tolist()])


def _drift(ax: Axes, *, drift: Sequence[tuple[str, float]]) -> None:
    _title(ax, "Changes since the last model", "stability index; above 0.25, in orange, is another population")
    _bars(ax, drift[:COUNT_FEATURES], alarming=LARGE)


def _bars(ax: Axes, named: Sequence[tuple[str, float]], alarming: float = np.inf) -> None:
    # The largest on top. Names stand to the right of their bars: as tick labels, the longest would take half of the plot.
    for row, (name, value) in enumerate(reversed(named)):
        ax.barh(row, value, color=ORANGE if value > alarming else BLUE, height=0.66)
        ax.text(value, row, f"  {value:.2f}  {name}", va="center", fontsize=11, color=INK)
    largest = max((value for _, value in named), default=0.0)
    ax.set(xlim=(0, max(2.7 * largest, 1e-9)), ylim=(-0.6, len(named) - 0.4), xticks=[], yticks=[])
    ax.spines[["bottom"]].set_visible(False)


def _effect(ax: Axes, *, effect: Effect, edge: float) -> None:
    low, high = min(p.contribution for p in effect.points), max(p.contribution for p in effect.points)
    _title(ax, effect.feature, f"its own part: {low:+.2f} to {high:+.2f} in the log odds")
    # A line along a number's values. Levels and missing stand apart.
    line = [place for place, point in enumerate(effect.points) if point.value is not None]
    for name, color, style, marker in (("predicted", BLUE, "-", "o"), ("observed", ORANGE, ":", "s")):
        shares = np.array([getattr(point, name) for point in effect.points])
        ax.plot(line, shares[line], color=color, linestyle=style, linewidth=2)
        ax.plot(np.arange(len(shares)), shares, marker, color=color, markersize=7, label=name)
    texts = [_short(p.name) for p in effect.points]
    turned = sum(map(len, texts)) > 36  # more characters than fit side by side
    if turned:
        ax.figure.subplots_adjust(bottom=0.22)  # 14 characters, the longest of `_short`, at 45 degrees
    how: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    ax.set_xticks(np.arange(len(texts)), texts, **how)
    ax.set(ylabel="share unfinished", ylim=(0, edge), xlim=(-0.5, len(texts) - 0.5))
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.grid(color="#e8eaee", linewidth=0.8)
    ax.legend(loc="best", frameon=False, fontsize=11)


def _short(name: str) -> str:
    """Return a name short enough for an axis: a long number as 12k, a long word cut."""
    try:
        number = float(name)
    except ValueError:
        return name if len(name) <= 14 else name[:13] + "\u2026"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
