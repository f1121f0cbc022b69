"""Model card: content, warnings, and a page without external files."""

import io
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from scoring.features import Feature, FeatureContract
from training.evaluation.baselines import Baseline, Gain
from training.evaluation.feature_effects import Effect, Point, effects
from training.evaluation.metrics import Slice
from training.evaluation.psi import reference, stability
from training.model_card.card import Report, as_markdown, headlines, sections, summary
from training.model_card.html import as_html
from training.model_card.plots import Curves, draw

CONTRACT = FeatureContract(
    features=(
        Feature(name="effort", type="number", range=(0, 100), low="little effort", monotone="decreasing"),
        Feature(name="device_type", type="category", reason="uses {value}", categories=("desktop", "mobile")),
        Feature(name="income", type="number", range=(0, 1e9)),
    )
)
FIRST, LAST = datetime(2026, 9, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)


def a_baseline(low: float = 0.001) -> Baseline:
    gains = {name: Gain(0.0040, (low, 0.0070)) for name in ("brier", "log_loss", "auc")}
    return Baseline("logistic regression", {"brier": 0.1240, "log_loss": 0.4140, "auc": 0.8460}, gains)


def a_report(metrics: dict[str, float] | None = None, **changes: Any) -> Report:
    values = {
        "auc": 0.85,
        "average_precision": 0.8,
        "brier": 0.12,
        "brier_baseline": 0.24,
        "brier_skill": 0.5,
        "log_loss": 0.41,
        "calibration_error": 0.01,
        "lift_at_10_percent": 2.2,
        "base_rate": 0.4,
        "train_rate": 0.4,
        "gap_days": 14.0,
        "count_rounds": 120.0,
        "count_treated_left_out": 812.0,
        **{f"count_{part}": 1_000.0 for part in ("fit", "validation", "aside", "test")},
        **(metrics or {}),
    }
    report = Report(
        metrics=values,
        contract=CONTRACT,
        slices={"device": [Slice("<b>|x", 600, 0.40, 0.41, None)]},
        periods=dict.fromkeys(("fit", "validation", "aside", "test"), (FIRST, LAST, 0.4)),
        trained_at=LAST,
        label_window_days=14,
        seed=0,
        intervals={"auc": (0.841, 0.859), "brier_skill": (0.47, 0.53)},
        baselines=(a_baseline(),),
    )
    return replace(report, **changes)


def a_world(count: int = 1_000) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(0)
    matrix = np.column_stack([rng.random(count) * 10, rng.integers(0, 2, count), rng.normal(4e4, 9e3, count)])
    matrix[:100, 0] = np.nan
    probability = np.where(np.isnan(matrix[:, 0]), 0.9, 1 - matrix[:, 0] / 10)
    label = (rng.random(count) < probability).astype(np.int64)
    contributions = np.column_stack([0.5 - probability, 0.1 * matrix[:, 1], np.zeros(count)])
    return matrix.astype(np.float32), label, probability, contributions


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    matrix, label, probability, contributions = a_world()
    return draw(
        Curves(
            label,
            probability,
            CONTRACT.names,
            np.abs(contributions).mean(axis=0),
            uncalibrated=probability**2,
            effects=effects(CONTRACT, matrix, label, probability, contributions),
            drift=[("income", 0.31), ("effort", 0.02)],
        )
    )


# Messages


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"metrics": {"brier_skill": -0.01}}, "does not beat always predicting the average. Do not use it"),
        ({"intervals": {"brier_skill": (-0.02, 0.6)}}, "its Brier skill, -2.0% to 60.0%, includes 0"),
        ({"metrics": {"gap_days": 3.5}}, "is 3.5 days instead of a label window of 14"),
        ({"metrics": {"calibration_error": 0.08}}, "off by 8.0% on average"),
        ({"metrics": {"train_rate": 0.3}}, "went from 30% in the fit to 40% in the test"),
        (
            {"baselines": (a_baseline(low=-0.0010),)},
            "no proof that the model is better than a logistic regression: its gain in Brier score is +0.0040, with an interval "
            "of -0.0010 to +0.0070",
        ),
        (
            {"slices": {"week": [Slice("2026-W40", 500, 0.40, 0.46, 0.8)]}},
            "of the 500 exits in the slice 2026-W40 (by week), 40% were predicted to stay unfinished and 46% did",
        ),
        ({"permuted_auc": 0.61}, "a model fitted on shuffled labels still reaches an AUC of 0.610"),
        ({"drift": [("income", 0.31), ("effort", 0.2)]}, "changed since the last model: income. Check whether the app"),
    ],
)
def test_the_card_warns_of_what_speaks_against_the_model(changes: dict[str, Any], warning: str) -> None:
    assert "Warning:" not in as_markdown(a_report(), "v")
    assert "Warning:" not in as_html(a_report(), "v", {})
    assert warning in as_markdown(a_report(**changes), "v")
    assert warning in as_html(a_report(**changes), "v", {})


def test_a_small_slice_that_is_off_is_no_warning() -> None:
    off = {"week": [Slice("2026-W40", 499, 0.40, 0.46, 0.8)]}
    assert "Warning:" not in as_markdown(a_report(slices=off), "v")


def test_the_summary_says_whether_the_regression_is_beaten() -> None:
    assert "88% did not finish within 14 days; of all exits, 40%" in summary(a_report())
    assert "beats a logistic regression" in summary(a_report())
    assert "beats" not in summary(a_report(baselines=(a_baseline(low=0.0),)))
    assert "beats" not in summary(a_report(baselines=()))


def test_headlines_carry_their_intervals_where_these_are_known() -> None:
    notes = {name: note for name, _, note in headlines(a_report())}
    assert notes["AUC"] == "0.841 to 0.859; chance is 0.5"
    assert notes["unfinished"] == "of the test exits"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "812 were left out. Users in the holdout never get a voucher"),
        ({}, "The measured model is the one that ships, without a second fit."),
        ({"judged_users_ratio": 0.3}, "two sides by a hash of their id: 70% for training, 30% for the test"),
        ({}, "The risk is monotone in: effort decreasing."),
        ({}, "Used, but never given as a reason: income."),
        ({}, "| logistic regression | Brier score | 0.1240 | 0.1200 | +0.0040 | +0.0010 to +0.0070 | better |"),
        ({"metrics": {"brier_uncalibrated": 0.13}, "calibration_kind": "platt"}, "| Brier score | 0.1300 | 0.1200 |"),
        ({}, "No calibration map improved them"),
        ({"screen": [("effort", 0.71, "its value")], "permuted_auc": 0.503}, "| effort | 0.710 | its value |"),
        ({"permuted_auc": 0.503}, "A model fitted on shuffled labels reaches an AUC of 0.503"),
        ({"trials": [{"eta": 0.05, "log_loss": 0.4}, {"eta": 0.1, "log_loss": 0.5}]}, "| 0.05 | 0.40000 | taken |"),
        (
            {"drift": [("income", 0.02)], "drift_against": "v1"},
            "between the training exits of model v1 and of this one",
        ),
        ({}, "No earlier model has a reference to compare with."),
        ({}, "| <b>\\|x | 600 | 40.0% | 41.0% | one outcome only |"),
    ],
)
def test_the_card_tells(changes: dict[str, Any], told: str) -> None:
    assert told in as_markdown(a_report(**changes), "v")


def test_a_report_with_the_fields_of_the_first_day_still_makes_a_card() -> None:
    bare = a_report(intervals={}, baselines=(), slices={}, periods={})
    assert "Comparison with simpler models" not in [section.heading for section in sections(bare)]
    assert as_markdown(bare, "v").startswith("# Model v\n")


# The page


class Page(HTMLParser):
    """Records the open elements, and every reference to another file."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_no_other_file(pictures: dict[str, bytes]) -> None:
    text = as_html(a_report(drift=[("income", 0.31)]), "v", pictures)
    page = Page(text)
    assert page.open == []
    assert len(page.references) == len(pictures)
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not any(word in text for word in ("http", "@import", "url(", "<script"))


def test_words_from_the_data_are_escaped() -> None:
    assert "<b>|x" not in as_html(a_report(), "v", {})


def test_the_markdown_shows_each_picture_once_and_says_what_is_in_it(pictures: dict[str, bytes]) -> None:
    text = as_markdown(a_report(drift=[("income", 0.31)]), "v", pictures)
    assert [text.count(f"]({name})") for name in pictures] == [1] * len(pictures)
    assert "![]" not in text


# The pictures


def test_pictures_are_the_same_bytes_for_the_same_curves() -> None:
    _, label, probability, contributions = a_world()
    curves = Curves(label, probability, CONTRACT.names, np.abs(contributions).mean(axis=0))
    first = draw(curves)
    assert list(first) == ["ranking.png", "gain.png", "calibration.png", "features.png"]
    assert all(png.startswith(b"\x89PNG\r\n") for png in first.values())
    assert draw(curves) == first


def test_drift_and_effects_have_pictures_of_their_own(pictures: dict[str, bytes]) -> None:
    assert set(pictures) > {"effect_1.png", "effect_2.png", "effect_3.png", "drift.png"}
    assert len(set(pictures.values())) == len(pictures)


@pytest.mark.parametrize("count", [3, 9])
def test_no_word_below_an_axis_is_cut(count: int) -> None:
    _, label, probability, contributions = a_world()
    points = [Point(f"social_media_{level}", None, 99, 0.5, 0.4, 0.1) for level in range(count)]
    effect = Effect("referral_source", tuple(points))
    curves = Curves(label, probability, CONTRACT.names, np.abs(contributions).mean(axis=0), effects=[effect])
    picture = imread(io.BytesIO(draw(curves)["effect_1.png"]))
    outermost = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
    assert all((pixels == 1).all() for pixels in outermost)


def test_an_effect_follows_the_feature_and_shows_the_missing_last() -> None:
    found = effects(CONTRACT, *a_world())
    assert [effect.feature for effect in found] == ["effort", "device_type", "income"]
    effort, device, _ = found
    assert [point.name for point in effort.points][-1] == "missing"
    assert effort.points[-1].predicted == pytest.approx(0.9)
    predicted = [point.predicted for point in effort.points[:-1]]
    assert len(predicted) == 10
    assert predicted == sorted(predicted, reverse=True)
    assert {point.name for point in device.points} == {"desktop", "mobile"}
    assert max(point.contribution for point in device.points) == pytest.approx(0.1)


def test_an_effect_shows_no_part_of_fewer_than_50_exits() -> None:
    matrix, *others = a_world(200)
    matrix[:, 1] = [0] * 151 + [1] * 49
    found = {effect.feature: effect.points for effect in effects(CONTRACT, matrix, *others)}
    assert [(point.name, point.count) for point in found["device_type"]] == [("desktop", 151)]


# Drift against the last model


def test_the_stability_index_is_that_of_the_textbook() -> None:
    before = np.array([[0, 0, 0]] * 50 + [[10, 1, 0]] * 50, dtype=np.float32)
    now = np.array([[0, 0, 0]] * 80 + [[10, 1, 0]] * 20, dtype=np.float32)
    found = dict(stability(CONTRACT, now, reference(CONTRACT, before)))
    # .3 * ln(.8 / .5) + .3 * ln(.5 / .2), for the number and for the category; the third has not moved
    assert found == pytest.approx({"effort": 0.41589, "device_type": 0.41589, "income": 0.0}, abs=1e-5)


def test_a_level_that_is_new_and_values_that_went_missing_are_drift() -> None:
    before = np.array([[5, 0, 1]] * 60 + [[7, 1, 2]] * 40, dtype=np.float32)
    kept = reference(CONTRACT, before)
    wider = FeatureContract(
        features=(
            CONTRACT.features[0],
            CONTRACT.features[1].model_copy(update={"categories": ("console", "desktop", "mobile")}),
            CONTRACT.features[2],
        )
    )
    now = before + np.array([0, 1, 0], dtype=np.float32)
    assert dict(stability(wider, now, kept)) == pytest.approx({"effort": 0, "device_type": 0, "income": 0}, abs=1e-9)
    now[:30, 1], now[:30, 0] = 0, np.nan
    moved = dict(stability(wider, now, kept))
    assert min(moved["device_type"], moved["effort"]) > 0.25
    assert moved["income"] == pytest.approx(0, abs=1e-9)


def test_the_reference_holds_shares_and_comes_back_from_json() -> None:
    matrix, *_ = a_world()
    kept = reference(CONTRACT, matrix)
    assert type(kept).model_validate_json(kept.model_dump_json()) == kept
    assert all(sum(described.shares) == pytest.approx(1) for described in kept.features.values())
    assert max(index for _, index in stability(CONTRACT, matrix, kept)) < 1e-9
