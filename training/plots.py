"""What does the model's behaviour on the test exits look like? Four pictures in one PNG.

Colours are from Okabe and Ito's palette, told apart by colour-blind readers; every line is also told apart by its dash.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation
from sklearn.metrics import roc_auc_score, roc_curve

from training.evaluate import LIFT_RATIO, Floats, Labels, calibration_bins

BLUE, ORANGE, GREY, INK = "#0072b2", "#d55e00", "#8a8f98", "#22262e"
COUNT_FEATURES = 12
_CURVE_POINTS = 400
_Z_95 = 1.96


@dataclass(frozen=True)
class Curves:
    """What the pictures show: the test exits' labels and probabilities, and each feature's mean contribution."""

    label: Labels
    probability: Floats
    features: list[str]
    contributions: Floats


def draw(curves: Curves) -> bytes:
    """Return the PNG, 1800 x 1440 pixels; the same curves give the same bytes."""
    figure = Figure(figsize=(11.25, 9), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.075, right=0.975, bottom=0.07, top=0.93, wspace=0.22, hspace=0.42)
    axes = figure.subplots(2, 2)
    _roc(axes[0, 0], curves)
    _calibration(axes[0, 1], curves)
    _gain(axes[1, 0], curves)
    _features(axes[1, 1], curves)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color("#c5c9d0")
        ax.tick_params(color="#c5c9d0", labelcolor=INK, labelsize=10)
        ax.xaxis.label.set(color=INK, fontsize=11)
        ax.yaxis.label.set(color=INK, fontsize=11)
        ax.set_axisbelow(True)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _title(ax: Axes, title: str, subtitle: str) -> None:
    ax.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK, pad=24)
    place = ax.transAxes + ScaledTranslation(0, 8 / 72, ax.figure.dpi_scale_trans)
    ax.text(0, 1, subtitle, transform=place, fontsize=10, color="#5a606b")


def _percent(ax: Axes) -> None:
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.grid(color="#e8eaee", linewidth=0.8)


def _roc(ax: Axes, curves: Curves) -> None:
    false, true, _ = roc_curve(curves.label, curves.probability)
    _title(ax, f"Ranking: AUC {roc_auc_score(curves.label, curves.probability):.3f}", "0.5 is chance, 1 is perfect")
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.3, label="chance")
    ax.plot(false, true, color=BLUE, linewidth=2.2, label="model")
    ax.set(xlabel="finished, wrongly flagged", ylabel="unfinished, rightly flagged", xlim=(0, 1), ylim=(0, 1.005))
    _percent(ax)
    ax.legend(loc="lower right", frameon=False, fontsize=10)


def _calibration(ax: Axes, curves: Curves) -> None:
    bins = calibration_bins(curves.label, curves.probability)
    predicted = np.array([b.predicted for b in bins])
    observed = np.array([b.observed for b in bins])
    low, high = _wilson(observed, np.array([b.count for b in bins]))
    _title(ax, "Are the probabilities true?", "each dot a tenth of the test exits, with its 95% interval")
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
    edge = min(1.0, 1.08 * float(max(predicted.max(), high.max())))
    ax.set(xlabel="predicted share unfinished", ylabel="observed share unfinished", xlim=(0, edge), ylim=(0, edge))
    _percent(ax)
    ax.legend(loc="upper left", frameon=False, fontsize=10)


def _wilson(rate: Floats, count: Labels) -> tuple[Floats, Floats]:
    """Return the bounds of the 95% interval of observed rates (Wilson, JASA 1927)."""
    z2 = _Z_95**2
    middle = (rate + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z_95 * np.sqrt(rate * (1 - rate) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return middle - half, middle + half


def _gain(ax: Axes, curves: Curves) -> None:
    order = np.argsort(-curves.probability, kind="stable")
    found = np.concatenate([[0.0], np.cumsum(curves.label[order]) / curves.label.sum()])
    asked = np.linspace(0, 1, len(found))
    point = max(1, int(len(order) * LIFT_RATIO))
    shown = np.unique(np.linspace(0, len(found) - 1, min(_CURVE_POINTS, len(found))).astype(np.int64))
    base_rate = float(curves.label.mean())
    subtitle = f"the riskiest 10% of exits hold {found[point]:.0%} of those that stay unfinished"
    _title(ax, "Whom does a list of the riskiest reach?", subtitle)
    ax.plot([0, base_rate, 1], [0, 1, 1], color=ORANGE, linestyle=":", linewidth=1.6, label="perfect")
    ax.plot(asked[shown], found[shown], color=BLUE, linewidth=2.2, label="model")
    ax.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.3, label="chance")
    ax.plot(asked[point], found[point], color=BLUE, marker="o", markersize=7)
    ax.set(xlabel="share of exits, riskiest first", ylabel="share of the unfinished reached")
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    _percent(ax)
    ax.legend(loc="lower right", frameon=False, fontsize=10)


def _features(ax: Axes, curves: Curves) -> None:
    top = np.argsort(-curves.contributions, kind="stable")[:COUNT_FEATURES][::-1]
    values = curves.contributions[top]
    _title(ax, "What does the model look at?", "mean contribution to the log odds, up or down")
    ax.barh(np.arange(len(top)), values, color=BLUE, height=0.66)
    for row, (index, value) in enumerate(zip(top, values, strict=True)):
        ax.text(float(value), row, f"  {value:.2f}  {curves.features[index]}", va="center", fontsize=10, color=INK)
    # Names to the right of their bars: as tick labels, the longest would take half of the plot.
    ax.set(xlim=(0, max(1.9 * float(values.max()), 1e-9)), ylim=(-0.6, len(top) - 0.4), xticks=[], yticks=[])
    ax.spines[["bottom"]].set_visible(False)
