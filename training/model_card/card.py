"""The model card: what to know before trusting a model.

It holds only aggregates over many exits: no ids, no single row, and no slice or level of fewer than 50 users.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import xgboost as xgb

from scoring.features import FeatureContract
from training.evaluation.baselines import LOGISTIC_REGRESSION, Baseline
from training.evaluation.bootstrap import Interval
from training.evaluation.metrics import Slice
from training.evaluation.psi import LARGE
from training.model_card.plots import PICTURES
from training.model_card.tables import (
    Section,
    calibration,
    examples,
    making,
    measures,
    screening,
    searching,
    slice_tables,
)
from training.model_card.tables import baselines as baseline_table

# Differences that give a warning, in shares: a risk band should not be off by more than 5 points.
_CALIBRATION_WARNING = 0.05
_RATE_SHIFT_WARNING = 0.05
# This many exits give a rate to 4 points or better, so that an error of 5 is not chance.
_MIN_WARNED_SLICE = 500
_PERMUTED_AUC_WARNING = 0.55


@dataclass(frozen=True)
class Report:
    """Content of the card. `periods` has the first and last exit (UTC) and the share of label 1 of each part.

    `intervals` belong to `metrics`. `screen` has the AUC of single features and the view with that AUC, the highest first.
    `permuted_auc` is the AUC of a fit on shuffled labels. `trials` are the settings tried, each with its `log_loss`, the best
    first. `drift` is each feature's population stability index against the model `drift_against`, None without one.
    `out_of_range` counts, by feature, the training values that were taken as missing.
    """

    metrics: dict[str, float]
    contract: FeatureContract
    slices: Mapping[str, Sequence[Slice]]
    periods: Mapping[str, tuple[datetime, datetime, float]]
    trained_at: datetime
    label_window_days: int
    seed: int
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    baselines: Sequence[Baseline] = ()
    calibration_kind: str = "none"
    screen: Sequence[tuple[str, float, str]] = ()
    permuted_auc: float | None = None
    trials: Sequence[Mapping[str, Any]] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    judged_users_ratio: float | None = None
    drift: Sequence[tuple[str, float]] | None = None
    drift_against: str | None = None
    out_of_range: Mapping[str, int] = field(default_factory=dict)


def as_markdown(report: Report, version: str, pictures: Collection[str] = ()) -> str:
    """Return the card as Markdown; `pictures` are the names of the image files beside it."""
    lines = [f"# Model {version}", "", summary(report), ""]
    lines += [f"> **Warning:** {warning}" + "\n" for warning in warnings(report)]
    lines += [f"- **{value}** {name}, {note}" for name, value, note in headlines(report)]
    for section in sections(report, pictures):
        lines += ["", f"## {section.heading}"]
        for paragraph in section.paragraphs:
            lines += ["", paragraph]
        for picture in section.pictures:
            lines += ["", f"![{alt(picture)}]({picture})"]
        for caption, table in section.tables:
            head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in table)
            lines += ["", *([f"**{caption}**", ""] if caption else [])]
            lines += [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def summary(report: Report) -> str:
    """Summarize the model's quality in a few sentences."""
    m = report.metrics
    said = (
        f"Of the tenth of exits with the highest risk, {m['lift_at_10_percent'] * m['base_rate']:.0%} did not "
        f"finish within {report.label_window_days} days; of all exits, {m['base_rate']:.0%}. "
        f"Measured on {m['count_test']:,.0f} exits, all later than the training exits and of users not in the training set."
    )
    regression = next((b for b in report.baselines if b.name == LOGISTIC_REGRESSION), None)
    if regression and regression.is_beaten:
        said += " It beats a logistic regression on the same exits by more than chance explains."
    return said


def warnings(report: Report) -> list[str]:
    """List the reasons to distrust the metrics, if any."""
    m = report.metrics
    low, high = report.intervals.get("brier_skill", (m["brier_skill"], m["brier_skill"]))
    said = []
    if m["brier_skill"] <= 0:
        said.append("the model does not beat always predicting the average. Do not use it.")
    elif low <= 0:
        said.append(
            "the model may not beat always predicting the average: the interval of its Brier skill, "
            f"{low:.1%} to {high:.1%}, includes 0."
        )
    for baseline in report.baselines:
        if baseline.name == LOGISTIC_REGRESSION and not baseline.is_beaten:
            low, high = baseline.gains["brier"].interval
            said.append(
                "no proof that the model is better than a logistic regression: its gain in Brier score is "
                f"{baseline.gains['brier'].value:+.4f}, with an interval of {low:+.4f} to {high:+.4f}."
            )
    if m["gap_days"] < report.label_window_days:
        said.append(
            f"the history is short: the gap before the test period is {m['gap_days']:.1f} days instead of a label "
            f"window of {report.label_window_days}. Some training labels reach into the test period, so the "
            "metrics may be too good."
        )
    if m["calibration_error"] > _CALIBRATION_WARNING:
        said.append(
            f"the probabilities are off by {m['calibration_error']:.1%} on average. Look at the calibration plot "
            "before relying on the risk bands."
        )
    if abs(m["base_rate"] - m["train_rate"]) > _RATE_SHIFT_WARNING:
        said.append(
            f"the share that did not finish went from {m['train_rate']:.0%} in the fit to {m['base_rate']:.0%} in the "
            "test: user behaviour is changing. Train again soon."
        )
    return [*said, *_slice_warnings(report), *_other_warnings(report)]


def _slice_warnings(report: Report) -> list[str]:
    return [
        f"of the {part.count:,} exits in the slice {part.name} (by {way}), {part.predicted:.0%} were predicted to stay "
        f"unfinished and {part.observed:.0%} did."
        for way, parts in report.slices.items()
        for part in parts
        if part.count >= _MIN_WARNED_SLICE and abs(part.predicted - part.observed) > _CALIBRATION_WARNING
    ]


def _other_warnings(report: Report) -> list[str]:
    said = []
    if report.permuted_auc is not None and report.permuted_auc > _PERMUTED_AUC_WARNING:
        said.append(
            f"a model fitted on shuffled labels still reaches an AUC of {report.permuted_auc:.3f}: something other than the "
            "features separates the outcomes."
        )
    moved = [name for name, index in report.drift or () if index > LARGE]
    if moved:
        said.append(
            f"the distribution of these features changed since the last model: {', '.join(moved)}. Check whether the app or the "
            "tracking changed."
        )
    return said


def headlines(report: Report) -> list[tuple[str, str, str]]:
    """Return the five most important figures: name, value, and how to read it, with the 95% interval where known."""
    m = report.metrics

    def note(name: str, form: str, text: str) -> str:
        if name not in report.intervals:
            return text
        low, high = report.intervals[name]
        return f"{low:{form}} to {high:{form}}; {text}"

    return [
        ("AUC", f"{m['auc']:.3f}", note("auc", ".3f", "chance is 0.5")),
        ("lift, top 10%", f"{m['lift_at_10_percent']:.2f}", note("lift_at_10_percent", ".2f", "times the average")),
        ("Brier skill", f"{m['brier_skill']:.1%}", note("brier_skill", ".1%", "less error than the average")),
        (
            "calibration error",
            f"{m['calibration_error']:.1%}",
            note("calibration_error", ".1%", "mean distance from the truth"),
        ),
        ("unfinished", f"{m['base_rate']:.1%}", note("base_rate", ".1%", "of the test exits")),
    ]


def sections(report: Report, pictures: Collection[str] = ()) -> list[Section]:
    """Return the text, pictures and tables below the headlines; `pictures` are the names of the pictures to show."""
    m = report.metrics
    drawn = {kind: [p for p in pictures if p.split("_")[0].removesuffix(".png") == kind] for kind in PICTURES}
    found = [
        _meaning(report),
        Section("How well it ranks", pictures=(*drawn["ranking"], *drawn["gain"])),
        baseline_table(report.baselines, m),
        calibration(m, report.calibration_kind, drawn["calibration"]),
        Section(
            "Most important features", _effect_text(drawn["effect"]), pictures=(*drawn["features"], *drawn["effect"])
        ),
        measures(m, report.intervals),
        slice_tables(report.slices),
        examples(m, report.periods, report.judged_users_ratio, report.out_of_range),
        screening(report.screen, report.permuted_auc),
        _drift(report, drawn["drift"]),
        searching(report.trials),
        making(
            report.contract,
            f"Trained {report.trained_at:%d %b %Y %H:%M} UTC on {len(report.contract.features)} features.",
            f"XGBoost {xgb.__version__}"
            + "".join(f", {name} {value}" for name, value in report.parameters.items())
            + f"; seed {report.seed}. ",
        ),
    ]
    return [section for section in found if section.paragraphs or section.pictures or section.tables]


def alt(picture: str) -> str:
    """Return the alternative text of a picture, for screen readers."""
    kind, _, rank = picture.removesuffix(".png").partition("_")
    return PICTURES[kind] + (f" No. {rank} by contribution." if rank else "")


def _meaning(report: Report) -> Section:
    treated = report.metrics["count_treated_left_out"]
    return Section(
        "What the probability means",
        (
            "The probability that a user who left unfinished will not finish within "
            f"{report.label_window_days} days, if no voucher is sent. "
            "It ranks risk; it does not predict which users a voucher would change.",
            "Examples of users who held a voucher are left out of training and measurement, because the model would learn the "
            f"effect of the voucher: {treated:,.0f} were left out. Users in the holdout never get a voucher, so they are "
            "untreated and stay in.",
        ),
    )


def _effect_text(drawn: Sequence[str]) -> tuple[str, ...]:
    if not drawn:
        return ()
    return (
        "Predicted and observed rate along each of the features with the largest contributions. The prediction includes "
        "correlated features; the contribution is the feature's own part.",
    )


def _drift(report: Report, drawn: Sequence[str]) -> Section:
    heading = "Drift against the last model"
    if report.drift is None:
        return Section(heading, ("No earlier model has a reference to compare with.",))
    named = f"model {report.drift_against}" if report.drift_against else "the last model"
    text = (
        f"Population stability index of each feature between the training exits of {named} and of this one. Below 0.10 "
        "is stable; above 0.25 is another population."
    )
    rows = tuple((name, f"{index:.3f}") for name, index in report.drift[:12])
    return Section(heading, (text,), tuple(drawn), (("", (("feature", "index"), *rows)),) if not drawn else ())
