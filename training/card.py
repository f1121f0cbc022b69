"""What must a person know before trusting this model? The card says it.

Sums over many exits only: no ids, no row of anybody, and no slice but by device.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import xgboost as xgb

from scoring.contract import FeatureContract
from training.evaluate import MIN_SLICE_ROWS, Slice
from training.fit import EARLY_STOPPING_ROUNDS, PARAMETERS

# Differences worth a warning, in shares: 5 points are more than a risk band should be off by.
_CALIBRATION_WARNING = 0.05
_RATE_SHIFT_WARNING = 0.05
ALT = "Four plots: ROC curve, calibration, cumulative gain, and the features the model looks at most."


@dataclass(frozen=True)
class Report:
    """What the card tells. `periods`: of each part, its first and last exit (UTC) and its share of label 1."""

    metrics: dict[str, float]
    contract: FeatureContract
    devices: list[Slice]
    periods: dict[str, tuple[datetime, datetime, float]]
    trained_at: datetime
    label_window_days: int
    seed: int


@dataclass(frozen=True)
class Section:
    """A part of the card; the first row of the table is its head."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()


def as_markdown(report: Report, version: str) -> str:
    """Return the card for a terminal or a repository."""
    lines = [f"# Model {version}", "", summary(report), ""]
    lines += [f"> **Mind:** {warning}" + "\n" for warning in warnings(report)]
    lines += [f"- **{value}** {name}, {note}" for name, value, note in headlines(report)]
    lines += ["", f"![{ALT}](plots.png)"]
    for section in sections(report):
        lines += ["", f"## {section.heading}"]
        for paragraph in section.paragraphs:
            lines += ["", paragraph]
        if section.table:
            head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in section.table)
            lines += ["", *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))]
    return "\n".join(lines) + "\n"


def summary(report: Report) -> str:
    """Say in two sentences what the model is worth."""
    m = report.metrics
    return (
        f"Of the tenth of exits that the model calls riskiest, {m['lift_at_10_percent'] * m['base_rate']:.0%} did not "
        f"finish within {report.label_window_days} days; of all exits, {m['base_rate']:.0%}. "
        f"Measured on {m['count_test']:,.0f} exits, all later than those it learned from."
    )


def warnings(report: Report) -> list[str]:
    """Say what speaks against trusting the figures, if anything does."""
    m = report.metrics
    said = []
    if m["brier_skill"] <= 0:
        said.append("the model is no better than always answering the average. Do not use it.")
    if m["gap_days"] < report.label_window_days:
        said.append(
            f"the history is short: the gap before the test period is {m['gap_days']:.1f} days instead of a label "
            f"window of {report.label_window_days}. Some labels learned from reach into the test period, so the "
            "figures may flatter."
        )
    if m["calibration_error"] > _CALIBRATION_WARNING:
        said.append(
            f"the probabilities are off by {m['calibration_error']:.1%} on average. Look at the calibration plot "
            "before trusting the edges of the risk bands."
        )
    if abs(m["base_rate"] - m["train_rate"]) > _RATE_SHIFT_WARNING:
        said.append(
            f"the share that did not finish went from {m['train_rate']:.0%} in the fit to {m['base_rate']:.0%} in the "
            "test: what users do is changing. Train again soon."
        )
    return said


def headlines(report: Report) -> list[tuple[str, str, str]]:
    """Return the five figures to look at first: name, value, and how to read it."""
    m = report.metrics
    return [
        ("AUC", f"{m['auc']:.3f}", "chance is 0.5"),
        ("lift, top 10%", f"{m['lift_at_10_percent']:.2f}", "times the average"),
        ("Brier skill", f"{m['brier_skill']:.1%}", "less error than the average"),
        ("calibration error", f"{m['calibration_error']:.1%}", "mean distance from the truth"),
        ("unfinished", f"{m['base_rate']:.1%}", "of the test exits"),
    ]


def sections(report: Report) -> list[Section]:
    """Return the text and tables below the plots."""
    return [
        _meaning(report),
        _examples(report),
        _measures(report.metrics),
        *([_devices(report.devices)] if report.devices else []),
        _making(report),
    ]


def _meaning(report: Report) -> Section:
    treated = report.metrics["count_treated_left_out"]
    return Section(
        "What the probability means",
        (
            "The probability that a user who left unfinished will not finish within "
            f"{report.label_window_days} days, if no voucher is sent. Examples of users who held a voucher are neither "
            f"learned from nor measured: {treated:,.0f} were left out. The score ranks risk; it does not say whom a "
            "voucher would change.",
        ),
    )


def _examples(report: Report) -> Section:
    m = report.metrics
    used_for = {
        "fit": "learned from",
        "validation": f"chose the number of rounds, {m['count_rounds']:.0f}",
        "gap": "left out: labels here reach into the test period",
        "test": "all figures on this page",
    }
    rows = [
        (
            name,
            f"{m[f'count_{name}']:,.0f}",
            f"{first:%d %b %Y} to {last:%d %b %Y}",
            f"{rate:.1%}",
            used_for[name],
        )
        for name, (first, last, rate) in report.periods.items()
    ]
    new_users = f"{m['new_users_ratio']:.0%} of the test exits are of users unseen in fit and validation"
    if "auc_new_users" in m:
        new_users += f"; on these alone the AUC is {m['auc_new_users']:.3f}"
    return Section(
        "Examples, by time of exit (UTC)",
        (
            "The model that ships was fitted again on all of these rows, gap and test included, with the same number "
            "of rounds. It is not the very one measured here, but one that knows the latest weeks too.",
            f"{new_users}.",
        ),
        (("part", "exits", "period", "unfinished", "used for"), *rows),
    )


def _measures(m: dict[str, float]) -> Section:
    return Section(
        "Measures on the test exits",
        (),
        (
            ("measure", "value", "how to read it"),
            ("AUC", f"{m['auc']:.4f}", "how often an unfinished exit is ranked above a finished one"),
            ("average precision", f"{m['average_precision']:.4f}", f"chance is {m['base_rate']:.4f}"),
            ("Brier score", f"{m['brier']:.4f}", f"always answering the fit's average gives {m['brier_baseline']:.4f}"),
            ("log loss", f"{m['log_loss']:.4f}", "lower is better"),
            (
                "calibration error",
                f"{m['calibration_error']:.4f}",
                "distance of predicted and observed rate, mean over ten equal bins",
            ),
            ("lift, top 10%", f"{m['lift_at_10_percent']:.3f}", f"perfect is {min(10.0, 1 / m['base_rate']):.3f}"),
        ),
    )


def _devices(devices: list[Slice]) -> Section:
    rows = [
        (
            device.name,
            f"{device.count:,}",
            f"{device.predicted:.1%}",
            f"{device.observed:.1%}",
            "one outcome only" if device.auc is None else f"{device.auc:.3f}",
        )
        for device in devices
    ]
    return Section(
        "By device of the last visit",
        (f"Devices with fewer than {MIN_SLICE_ROWS} test exits are not shown.",),
        (("device", "exits", "predicted", "observed", "AUC"), *rows),
    )


def _making(report: Report) -> Section:
    silent = ", ".join(f.name for f in report.contract.features if not (f.low or f.high or f.reason)) or "none"
    settings = ", ".join(f"{name} {value}" for name, value in PARAMETERS.items())
    return Section(
        "How it was made",
        (
            f"Trained {report.trained_at:%d %b %Y %H:%M} UTC on {len(report.contract.features)} features. Used, but "
            f"never given as a reason: {silent}.",
            f"XGBoost {xgb.__version__}: {settings}; seed {report.seed}; stopped after {EARLY_STOPPING_ROUNDS} rounds "
            "without gain. Nothing resampled or weighted. The same examples and seed give the same model, byte for "
            "byte.",
        ),
    )
