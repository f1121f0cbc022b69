"""Tables of the model card, with an explanation of each figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from scoring.features import FeatureContract
from training.evaluation.baselines import Baseline
from training.evaluation.bootstrap import Interval
from training.evaluation.metrics import MIN_SLICE_USERS, Slice
from training.evaluation.ranking import TOP_PERCENTS

Table = tuple[tuple[str, ...], ...]
MOST_TELLING = 12  # features shown of the leak screen, those with the highest AUC
_KINDS = {"platt": "Platt's line through the log odds", "isotonic": "isotonic regression"}


@dataclass(frozen=True)
class Section:
    """A part of the card. A table has a caption, which may be empty; its first row is the header."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    tables: tuple[tuple[str, Table], ...] = ()


def baselines(found: Sequence[Baseline], m: Mapping[str, float]) -> Section:
    """Table of the comparison with baselines."""
    if not found:
        return Section("Comparison with simpler models")
    head = ("against", "measure", "its value", "this model's", "this model's gain", "95% interval", "")
    rows = (
        (
            each.name,
            words,
            f"{each.metrics[name]:.4f}",
            f"{m[name]:.4f}",
            f"{each.gains[name].value:+.4f}",
            _between(each.gains[name].interval, "+.4f"),
            "better" if each.gains[name].is_certain else "not proven better",
        )
        for each in found
        for name, words in (("brier", "Brier score"), ("log_loss", "log loss"), ("auc", "AUC"))
    )
    text = (
        "Both learned from the same exits and were measured on the same test exits. A gain above 0 means that this model is "
        "better, in every measure. The interval is over paired draws of users. Better means that the interval lies above 0."
    )
    return Section("Comparison with simpler models", (text,), (), (("", (head, *rows)),))


def measures(m: Mapping[str, float], intervals: Mapping[str, Interval]) -> Section:
    """Table of every measure, with its interval and how to read it."""
    named = [
        ("AUC", "auc", "how often an unfinished exit is ranked above a finished one"),
        ("average precision", "average_precision", f"chance is {m['base_rate']:.4f}"),
        ("Brier score", "brier", f"always predicting the training average gives {m['brier_baseline']:.4f}"),
        ("Brier skill", "brier_skill", "share of the average's error that the model removes"),
        ("log loss", "log_loss", "lower is better"),
        ("calibration error", "calibration_error", "distance of predicted and observed rate, mean over ten equal bins"),
        *(
            (f"lift, top {p}%", f"lift_at_{p}_percent", f"perfect is {min(100 / p, 1 / m['base_rate']):.3f}")
            for p in TOP_PERCENTS
        ),
        *(
            (f"gain, top {p}%", f"gain_at_{p}_percent", "share of the unfinished in a list of this length")
            for p in TOP_PERCENTS
        ),
    ]
    rows = [
        (name, f"{m[key]:.4f}", _between(intervals.get(key), ".4f"), reading)
        for name, key, reading in named
        if key in m
    ]
    text = (
        "Intervals are over draws of users, each with all of their exits, because exits of one user resemble each other. They "
        "show what other users of these weeks would have given, not what other weeks will give.",
    )
    heads = ("measure", "value", "95% interval", "how to read it")
    return Section("Measures on the test exits", text if intervals else (), (), (("", (heads, *rows)),))


def calibration(m: Mapping[str, float], kind: str, pictures: Sequence[str]) -> Section:
    """Describe the calibration and its effect on the test exits."""
    if kind == "none":
        text = "The probabilities are the model's own. No calibration map improved them on users it was not fitted on."
        return Section("Calibration", (text,), tuple(pictures))
    text = f"The probabilities are calibrated by {_KINDS.get(kind, kind)}, fitted on the validation exits."
    rows = tuple(
        (name, f"{m[f'{key}_uncalibrated']:.4f}", f"{m[key]:.4f}")
        for name, key in (("Brier score", "brier"), ("calibration error", "calibration_error"))
        if f"{key}_uncalibrated" in m
    )
    table = (("On the test exits", (("measure", "before", "after"), *rows)),) if rows else ()
    return Section("Calibration", (text,), tuple(pictures), table)


def slice_tables(slices: Mapping[str, Sequence[Slice]]) -> Section:
    """Tables of the slices of the test exits."""
    head = ("exits", "predicted", "observed", "AUC", "95% interval", "calibration error")
    tables = tuple((f"By {way}", (("part", *head), *map(_slice, parts))) for way, parts in slices.items() if parts)
    text = f"Parts of fewer than {MIN_SLICE_USERS} users are not shown."
    return Section("Quality by slice", (text,) if tables else (), (), tables)


def examples(
    m: Mapping[str, float],
    periods: Mapping[str, tuple[datetime, datetime, float]],
    judged_users_ratio: float | None,
    out_of_range: Mapping[str, int],
) -> Section:
    """Describe the training and test exits, and what was left out."""
    used_for = {
        "fit": "learned from",
        "validation": f"chose the number of rounds, {m['count_rounds']:.0f}, the settings and the calibration",
        "aside": "left out: the gap, judged users before it, learned users after it",
        "test": "all metrics on this page",
    }
    rows = [
        (
            name,
            f"{m[f'count_{name}']:,.0f}",
            f"{first:%d %b %Y} to {last:%d %b %Y}",
            f"{rate:.1%}",
            used_for.get(name, ""),
        )
        for name, (first, last, rate) in periods.items()
    ]
    sides = "two sides by a hash of their id"
    if judged_users_ratio is not None:
        sides += f": {1 - judged_users_ratio:.0%} for training, {judged_users_ratio:.0%} for the test"
    text: tuple[str, ...] = (
        f"Users are put on {sides}. Fit and validation are exits of the first side before a gap of {m['gap_days']:.1f} days. The "
        "test is exits of the second side after the gap. No user and no label is on both sides.",
        "The measured model is the one that ships, without a second fit.",
    )
    if aside := m.get("count_set_aside", 0):
        text += (f"{aside:,.0f} examples lack a required value, or hold later events; they were set aside.",)
    if out_of_range:
        named = ", ".join(f"{name} {count:,}" for name, count in sorted(out_of_range.items()))
        text += (f"Values out of range, treated as missing: {named}.",)
    heads = ("part", "exits", "period", "unfinished", "used for")
    return Section("Examples, by time of exit (UTC)", text, (), (("", (heads, *rows)),))


def screening(screen: Sequence[tuple[str, float, str]], permuted_auc: float | None) -> Section:
    """Describe the result of the leak screen."""
    text = []
    if screen:
        text.append(
            "No feature alone reveals the outcome. These come nearest, each fitted by itself. 0.5 is chance, 1 a leak."
        )
    if permuted_auc is not None:
        text.append(f"A model fitted on shuffled labels reaches an AUC of {permuted_auc:.3f}; chance is 0.5.")
    rows = tuple((name, f"{auc:.3f}", view) for name, auc, view in screen[:MOST_TELLING])
    tables = (("", (("feature", "AUC alone", "by"), *rows)),) if rows else ()
    return Section("Screen for leaks", tuple(text), (), tables)


def searching(trials: Sequence[Mapping[str, Any]]) -> Section:
    """Table of the settings tried, the chosen one first."""
    if not trials:
        return Section("Search")
    names = [name for name in trials[0] if name != "log_loss"]
    rows = (
        (*(f"{trial[name]}" for name in names), f"{trial['log_loss']:.5f}", "taken" if place == 0 else "")
        for place, trial in enumerate(trials)
    )
    text = f"{len(trials)} settings were tried on the validation exits, not on the test exits."
    return Section("Search", (text,), (), (("", ((*names, "log loss", ""), *rows)),))


def making(contract: FeatureContract, trained: str, settings: str) -> Section:
    """Describe how the model was made."""
    silent = ", ".join(f.name for f in contract.features if not (f.low or f.high or f.reason)) or "none"
    bound = [f"{f.name} {f.monotone}" for f in contract.features if f.monotone]
    constraints = f"The risk is monotone in: {', '.join(bound)}." if bound else "No feature has a monotone constraint."
    return Section(
        "How it was made",
        (
            f"{trained} Used, but never given as a reason: {silent}.",
            constraints,
            f"{settings}No resampling or weighting. The same examples and seed give the same model, byte for byte.",
        ),
    )


def _slice(part: Slice) -> tuple[str, ...]:
    return (
        part.name,
        f"{part.count:,}",
        f"{part.predicted:.1%}",
        f"{part.observed:.1%}",
        "one outcome only" if part.auc is None else f"{part.auc:.3f}",
        _between(part.auc_interval, ".3f"),
        "" if part.calibration_error is None else f"{part.calibration_error:.1%}",
    )


def _between(interval: Interval | None, form: str) -> str:
    return "" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"
