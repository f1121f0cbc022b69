"""Tables of the model card, and how to read each figure."""

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
MOST_TELLING = 12  # features of the screen; the others tell less
_KINDS = {"platt": "Platt's line through the log odds", "isotonic": "isotonic regression"}


@dataclass(frozen=True)
class Section:
    """A part of the card. A table has a caption, which may be empty; its first row is its head."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    tables: tuple[tuple[str, Table], ...] = ()


def baselines(found: Sequence[Baseline], m: Mapping[str, float]) -> Section:
    """Compare with simpler answers."""
    if not found:
        return Section("Against simpler answers")
    head = ("against", "measure", "its value", "the model's", "the model's gain", "95% interval", "")
    rows = (
        (
            each.name,
            words,
            f"{each.metrics[name]:.4f}",
            f"{m[name]:.4f}",
            f"{each.gains[name].value:+.4f}",
            _between(each.gains[name].interval, "+.4f"),
            "better" if each.gains[name].is_certain else "not shown to be better",
        )
        for each in found
        for name, words in (("brier", "Brier score"), ("log_loss", "log loss"), ("auc", "AUC"))
    )
    text = (
        "Both learned from the same exits and answered for the same test exits. A gain above 0 speaks for the model, in "
        "each measure; its interval is over draws of users, paired. Better means that the interval lies above 0."
    )
    return Section("Against simpler answers", (text,), (), (("", (head, *rows)),))


def measures(m: Mapping[str, float], intervals: Mapping[str, Interval]) -> Section:
    """List every measure, with its interval and how to read it."""
    named = [
        ("AUC", "auc", "how often an unfinished exit is ranked above a finished one"),
        ("average precision", "average_precision", f"chance is {m['base_rate']:.4f}"),
        ("Brier score", "brier", f"always answering the fit's average gives {m['brier_baseline']:.4f}"),
        ("Brier skill", "brier_skill", "share of the average's error that the model takes away"),
        ("log loss", "log_loss", "lower is better"),
        ("calibration error", "calibration_error", "distance of predicted and observed rate, mean over ten equal bins"),
        *(
            (f"lift, top {p}%", f"lift_at_{p}_percent", f"perfect is {min(100 / p, 1 / m['base_rate']):.3f}")
            for p in TOP_PERCENTS
        ),
        *(
            (f"gain, top {p}%", f"gain_at_{p}_percent", "share of the unfinished that a list so long holds")
            for p in TOP_PERCENTS
        ),
    ]
    rows = [
        (name, f"{m[key]:.4f}", _between(intervals.get(key), ".4f"), reading)
        for name, key, reading in named
        if key in m
    ]
    text = (
        "Intervals are over draws of users, each with all of their exits: exits of one user resemble each other. They say what "
        "other users of these weeks would have given, not what other weeks will.",
    )
    heads = ("measure", "value", "95% interval", "how to read it")
    return Section("Measures on the test exits", text if intervals else (), (), (("", (heads, *rows)),))


def calibration(m: Mapping[str, float], kind: str, pictures: Sequence[str]) -> Section:
    """Tell whether the probabilities were mended, and what that did."""
    if kind == "none":
        text = "The probabilities are the model's own: no map made them truer on users it was not fitted on."
        return Section("Calibration", (text,), tuple(pictures))
    text = f"The probabilities are mended by {_KINDS.get(kind, kind)}, fitted on the validation exits."
    rows = tuple(
        (name, f"{m[f'{key}_uncalibrated']:.4f}", f"{m[key]:.4f}")
        for name, key in (("Brier score", "brier"), ("calibration error", "calibration_error"))
        if f"{key}_uncalibrated" in m
    )
    table = (("On the test exits", (("measure", "before", "after"), *rows)),) if rows else ()
    return Section("Calibration", (text,), tuple(pictures), table)


def slice_tables(slices: Mapping[str, Sequence[Slice]]) -> Section:
    """Show each way to cut the test exits."""
    head = ("exits", "predicted", "observed", "AUC", "95% interval", "calibration error")
    tables = tuple((f"By {way}", (("part", *head), *map(_slice, parts))) for way, parts in slices.items() if parts)
    text = f"Parts of fewer than {MIN_SLICE_USERS} users are not shown."
    return Section("Where it is good and where not", (text,) if tables else (), (), tables)


def examples(
    m: Mapping[str, float],
    periods: Mapping[str, tuple[datetime, datetime, float]],
    judged_users_ratio: float | None,
    out_of_range: Mapping[str, int],
) -> Section:
    """Tell what was learned from and what judged, and what was odd."""
    used_for = {
        "fit": "learned from",
        "validation": f"chose the number of rounds, {m['count_rounds']:.0f}, the settings and the calibration",
        "aside": "left out: the gap, judged users before it, learned users after it",
        "test": "all figures on this page",
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
        sides += f": {1 - judged_users_ratio:.0%} are learned from, {judged_users_ratio:.0%} judge"
    text: tuple[str, ...] = (
        f"Users are put on {sides}. The fit and the validation are exits of the first before a gap of {m['gap_days']:.1f} days, "
        "the test is exits of the second after it: no user and no label is on both sides.",
        "What ships is what was measured: there is no second fit.",
    )
    if aside := m.get("count_set_aside", 0):
        text += (f"{aside:,.0f} examples lack a value that must be there, or hold later events; they were set aside.",)
    if out_of_range:
        named = ", ".join(f"{name} {count:,}" for name, count in sorted(out_of_range.items()))
        text += (f"Values out of range, taken as missing: {named}.",)
    heads = ("part", "exits", "period", "unfinished", "used for")
    return Section("Examples, by time of exit (UTC)", text, (), (("", (heads, *rows)),))


def screening(screen: Sequence[tuple[str, float, str]], permuted_auc: float | None) -> Section:
    """Tell what the screen for leaks found."""
    text = []
    if screen:
        text.append(
            "No feature alone knows the outcome: these come nearest, each fitted by itself. 0.5 is chance, 1 a leak."
        )
    if permuted_auc is not None:
        text.append(f"Fitted on shuffled labels, a model reaches an AUC of {permuted_auc:.3f}; chance is 0.5.")
    rows = tuple((name, f"{auc:.3f}", view) for name, auc, view in screen[:MOST_TELLING])
    tables = (("", (("feature", "AUC alone", "by"), *rows)),) if rows else ()
    return Section("Screen for leaks", tuple(text), (), tables)


def searching(trials: Sequence[Mapping[str, Any]]) -> Section:
    """List the settings tried, the one taken first."""
    if not trials:
        return Section("Search")
    names = [name for name in trials[0] if name != "log_loss"]
    rows = (
        (*(f"{trial[name]}" for name in names), f"{trial['log_loss']:.5f}", "taken" if place == 0 else "")
        for place, trial in enumerate(trials)
    )
    text = f"{len(trials)} settings were tried on the validation exits; the test exits had no say."
    return Section("Search", (text,), (), (("", ((*names, "log loss", ""), *rows)),))


def making(contract: FeatureContract, trained: str, settings: str) -> Section:
    """Tell how the model was made."""
    silent = ", ".join(f.name for f in contract.features if not (f.low or f.high or f.reason)) or "none"
    bound = [f"{f.name} {f.monotone}" for f in contract.features if f.monotone]
    constraints = (
        f"The risk may only follow these one way: {', '.join(bound)}." if bound else "No feature is held monotone."
    )
    return Section(
        "How it was made",
        (
            f"{trained} Used, but never given as a reason: {silent}.",
            constraints,
            f"{settings}Nothing resampled or weighted. The same examples and seed give the same model, byte for byte.",
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
