"""Comparison of two bundles: the right exits are used, and `winback evaluate` stores the verdict with the challenger."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb
import yaml
from rich.console import Console

from core.errors import ContractError, NothingToPromoteError
from jobs.models.evaluate import evaluate
from jobs.models.lifecycle import promote
from jobs.output import models as model_screens
from scoring.calibration import Calibration
from scoring.features import Feature, FeatureContract
from scoring.registry import bundles
from scoring.registry.bundles import Bundle
from scoring.registry.folder import CHALLENGER, CHAMPION
from tests.jobs.cli.test_cli import winback
from tests.support.environment import CONFIG, World, settings_in
from training.pipeline import hour_after
from training.promotion import champion_challenger as rivals
from training.promotion.comparison import ChallengeRules
from training.promotion.verdict import Verdict

START = datetime(2026, 1, 1, tzinfo=UTC)
LEARNED_UNTIL = START + timedelta(days=20)
WINDOW_DAYS = 14
CHAMPION_VERSION, CHALLENGER_VERSION = "20260101T000000Z-00000001", "20260108T000000Z-00000002"
NUMBERS = tuple(Feature(name=n, type="number", range=(-9, 9)) for n in ("step", "errors"))
CONTRACT = FeatureContract(features=NUMBERS)
RULES = ChallengeRules(resamples=400, min_examples=300, min_slice_rows=200)


def make(count: int = 3_000, *, days: int = 80, seed: int = 5) -> pa.Table:
    """Make examples evenly over the days, two exits per user."""
    rng = np.random.default_rng(seed)
    step, errors = rng.normal(size=count), rng.normal(size=count)
    label = rng.random(count) < 1 / (1 + np.exp(-1.5 * step - errors))
    return pa.table(
        {
            "label": label.astype(np.int64),
            "is_treated": np.zeros(count, dtype=bool),
            "exit_id": [f"exit-{i:05}" for i in range(count)],
            "user_id": [f"user-{i % (count // 2):05}" for i in range(count)],
            "exited_at": [START + timedelta(days=days * i / count) for i in range(count)],
            "step": step,
            "errors": errors,
            "device_type": rng.choice(["mobile", "desktop"], count),
            "count_sessions": rng.integers(1, 3, count),
        }
    )


def make_bundle(
    models: Path,
    version: str,
    *,
    seen: tuple[str, ...] = ("step", "errors"),
    learned_until: datetime = LEARNED_UNTIL,
    contract: FeatureContract = CONTRACT,
) -> Bundle:
    """Fit on examples of other users. For features that are not in `seen`, the model saw random values."""
    known = make(seed=1)
    columns = [known.column(n).to_numpy() if n in seen else np.zeros(known.num_rows) for n in contract.names]
    data = xgb.DMatrix(
        np.column_stack(columns),
        known.column("label").to_numpy(),
        feature_names=contract.names,
        feature_types=["q", "q"],
    )
    booster = xgb.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, data, 25)
    folder = models / version
    folder.mkdir(parents=True)
    booster.save_model(folder / "model.json")
    (folder / "contract.json").write_text(contract.model_dump_json())
    (folder / "calibration.json").write_text(Calibration(kind="none").model_dump_json())
    (folder / "metrics.json").write_text("{}")
    bundles.write_manifest(folder, version=version, trained_at=learned_until, learned_until=learned_until)
    return bundles.load_bundle(models, version)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rivals")


@pytest.fixture(scope="module")
def weak(models: Path) -> Bundle:
    return make_bundle(models, CHAMPION_VERSION, seen=("step",))


@pytest.fixture(scope="module")
def strong(models: Path) -> Bundle:
    return make_bundle(models, CHALLENGER_VERSION)


def judge(examples: pa.Table, champion: Bundle, challenger: Bundle, **rules: Any) -> Verdict:
    changed = RULES.model_copy(update=rules)
    return rivals.evaluate(examples, champion, challenger, changed, WINDOW_DAYS, threads=1)


def put(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


# Which exits count


def test_a_better_challenger_is_found_better_on_exits_later_than_both(weak: Bundle, strong: Bundle) -> None:
    verdict = judge(make(), weak, strong)
    assert verdict.is_better
    assert (verdict.champion, verdict.challenger) == (CHAMPION_VERSION, CHALLENGER_VERSION)
    # The models learned from 34 of 80 days, plus a label window; an exit at that exact moment is too early.
    assert verdict.count_examples == 3_000 - 1_275 - 1
    assert verdict.first_exited_at
    # Rounded to the hour: a bundle's verdict holds no exact moment of one user.
    later = [at for at in make().column("exited_at").to_pylist() if at > LEARNED_UNTIL + timedelta(days=WINDOW_DAYS)]
    assert verdict.first_exited_at == min(later).replace(minute=0, second=0, microsecond=0)
    assert verdict.last_exited_at == hour_after(max(later))
    assert [check.name for check in verdict.checks] == [
        *("contract", "examples", "users", "outcomes", "gain", "auc", "calibration, all exits"),
        "calibration, device of the last visit: desktop",
        "calibration, device of the last visit: mobile",
        "calibration, new or returning: came back",
        "calibration, new or returning: first session",
        *(f"calibration, ISO week of exit: 2026-W{week:02}" for week in range(7, 13)),
    ]


def test_the_later_of_the_two_decides_from_when_exits_judge(weak: Bundle, tmp_path: Path) -> None:
    late = make_bundle(tmp_path, CHALLENGER_VERSION, learned_until=LEARNED_UNTIL + timedelta(days=10))
    for champion, challenger in ((weak, late), (late, weak)):
        verdict = judge(make(), champion, challenger)
        assert verdict.first_exited_at
        # The full hour before the first exit.
        assert verdict.first_exited_at >= LEARNED_UNTIL + timedelta(days=10 + WINDOW_DAYS)


def test_exits_before_that_and_of_users_with_a_voucher_say_nothing(weak: Bundle, strong: Bundle) -> None:
    examples = make()
    times = examples.column("exited_at").to_pylist()
    is_early = np.array([time <= LEARNED_UNTIL + timedelta(days=WINDOW_DAYS) for time in times])
    treated = np.random.default_rng(0).random(3_000) < 0.3
    label = examples.column("label").to_numpy()
    lying = put(put(examples, "is_treated", treated), "label", np.where(is_early | treated, 1 - label, label))
    honest = examples.filter(pa.array(~treated))
    assert judge(lying, weak, strong) == judge(honest, weak, strong)


def test_the_order_of_the_examples_changes_nothing(weak: Bundle, strong: Bundle) -> None:
    examples = make()
    shuffled = examples.take(pa.array(np.random.default_rng(1).permutation(examples.num_rows)))
    assert judge(shuffled, weak, strong) == judge(examples, weak, strong)


# Challengers that are not better


def test_a_challenger_whose_column_is_gone_is_no_better_and_no_crash(weak: Bundle, tmp_path: Path) -> None:
    gone = FeatureContract(features=(NUMBERS[0], NUMBERS[1].model_copy(update={"name": "gone"})))
    folder = make_bundle(tmp_path, CHALLENGER_VERSION).folder
    (folder / "contract.json").write_text(gone.model_dump_json())
    bundles.write_manifest(folder, version=CHALLENGER_VERSION, trained_at=LEARNED_UNTIL, learned_until=LEARNED_UNTIL)
    verdict = judge(make(), weak, bundles.load_bundle(tmp_path, CHALLENGER_VERSION))
    assert not verdict.is_better
    assert [check.name for check in verdict.checks] == ["contract"]
    assert "column gone is absent" in verdict.says


def test_a_unit_that_changed_for_the_challenger_is_a_broken_contract(
    weak: Bundle, strong: Bundle, tmp_path: Path
) -> None:
    narrow = FeatureContract(features=(NUMBERS[0], NUMBERS[1].model_copy(update={"range": (100.0, 900.0)})))
    folder = make_bundle(tmp_path, CHALLENGER_VERSION).folder
    (folder / "contract.json").write_text(narrow.model_dump_json())
    bundles.write_manifest(folder, version=CHALLENGER_VERSION, trained_at=LEARNED_UNTIL, learned_until=LEARNED_UNTIL)
    assert "Its unit may have changed." in judge(make(), weak, bundles.load_bundle(tmp_path, CHALLENGER_VERSION)).says


def test_a_champion_that_cannot_be_scored_is_an_error_that_says_how_to_go_on(strong: Bundle, tmp_path: Path) -> None:
    gone = FeatureContract(features=(NUMBERS[0], NUMBERS[1].model_copy(update={"name": "gone"})))
    folder = make_bundle(tmp_path, CHAMPION_VERSION).folder
    (folder / "contract.json").write_text(gone.model_dump_json())
    bundles.write_manifest(folder, version=CHAMPION_VERSION, trained_at=LEARNED_UNTIL, learned_until=LEARNED_UNTIL)
    with pytest.raises(ContractError, match=f"column gone is absent.*winback promote {CHALLENGER_VERSION} --force"):
        judge(make(), bundles.load_bundle(tmp_path, CHAMPION_VERSION), strong)


def test_the_champion_is_not_better_than_itself(weak: Bundle) -> None:
    assert judge(make(), weak, weak).says == "Not better. The challenger is the champion itself."


def test_examples_without_a_key_are_refused(weak: Bundle, strong: Bundle) -> None:
    with pytest.raises(ContractError, match="lacks is_treated, user_id"):
        judge(make().drop_columns(["user_id", "is_treated"]), weak, strong)


@pytest.mark.parametrize(
    ("examples", "says"),
    [
        (
            lambda: make(900, days=40),
            "134 exits can judge, 300 are needed. Only exits after 2026-02-04 00:00 UTC count. At the average of 23 examples a "
            "day, 166 more will exist once exits up to 2026-02-17 are examples: 14 days after them, once late events have "
            "arrived.",
        ),
        (
            lambda: make(900, days=20),
            "0 exits can judge, 300 are needed. Only exits after 2026-02-04 00:00 UTC count. At the average of 45 examples a "
            "day, 300 more will exist once exits up to 2026-02-10 are examples: 14 days after them, once late events have "
            "arrived.",
        ),
        (
            lambda: make(900).slice(0, 0),
            "0 exits can judge, 300 are needed. Only exits after 2026-02-04 00:00 UTC count. "
            "The examples are too few to estimate when there will be enough.",
        ),
    ],
    ids=["some", "none yet", "no example at all"],
)
def test_too_few_exits_are_counted_and_it_is_said_when_there_are_enough(
    examples: Callable[[], pa.Table], says: str, weak: Bundle, strong: Bundle
) -> None:
    verdict = judge(examples(), weak, strong)
    assert not verdict.is_better
    assert next(check for check in verdict.checks if check.name == "examples").says == says


# The command as a whole


def challenged(world: World) -> tuple[str, str]:
    """Add a challenger equal to the champion. Both claim to have learned only from the first days, so the rest can count."""
    models = world.folder / "models"
    champion = bundles.champion(models)
    assert champion
    until = datetime(2026, 4, 3, tzinfo=UTC)
    shutil.copytree(models / champion, models / CHALLENGER_VERSION)
    for version in (champion, CHALLENGER_VERSION):
        bundles.write_manifest(models / version, version=version, trained_at=until, learned_until=until)
    bundles.point(models, CHALLENGER, CHALLENGER_VERSION)
    return champion, CHALLENGER_VERSION


def spoil(world: World, version: str) -> None:
    """Make a version predict nearly the same for all users."""
    folder = world.folder / "models" / version
    (folder / "calibration.json").write_text(Calibration(kind="platt", slope=0.05, intercept=0.0).model_dump_json())
    until = datetime(2026, 4, 3, tzinfo=UTC)
    bundles.write_manifest(folder, version=version, trained_at=until, learned_until=until)


def strict(world: World, **challenge: Any) -> Path:
    """Copy the configuration with other rules."""
    folder = world.folder / "config"
    shutil.copytree(CONFIG, folder)
    rules = yaml.safe_load((folder / "training.yml").read_text())
    (folder / "training.yml").write_text(yaml.safe_dump(rules | {"challenge": {"resamples": 400} | challenge}))
    return folder


def test_a_better_challenger_gets_a_verdict_that_promotes_it(world: World) -> None:
    champion, challenger = challenged(world)
    spoil(world, champion)
    config = strict(world, min_examples=300, max_calibration_error=0.2)
    with world.context(settings=settings_in(world.folder, config=config)) as context:
        verdict = evaluate(context)
        assert verdict.is_better, verdict.says
        kept = (world.folder / "models" / "attached" / challenger / "verdict.json").read_text()
        assert Verdict.model_validate_json(kept) == verdict
        assert promote(context.settings).champion == challenger


def test_a_worse_challenger_gets_a_verdict_that_keeps_it_out(world: World) -> None:
    _, challenger = challenged(world)
    spoil(world, challenger)
    with world.context(settings=settings_in(world.folder, config=strict(world, min_examples=300))) as context:
        assert not evaluate(context).is_better
        with pytest.raises(NothingToPromoteError, match="is not better"):
            promote(context.settings)


def test_the_command_leaves_with_0_whatever_the_verdict_and_prints_it(world: World) -> None:
    champion, challenger = challenged(world)
    spoil(world, champion)
    lenient = strict(world, min_examples=300, max_calibration_error=0.2)
    screen = winback(world, "evaluate", WINBACK_CONFIG=str(lenient))
    assert screen.returncode == 0
    assert f"Champion {champion}, challenger {challenger}" in screen.stdout
    assert screen.stdout.splitlines()[-1] == "The challenger is better. Use it: winback promote"
    spoil(world, challenger)
    told = winback(world, "evaluate", "--json", WINBACK_CONFIG=str(lenient))
    assert (told.returncode, json.loads(told.stdout)["is_better"]) == (0, False)


def test_what_speaks_against_a_challenger_is_the_last_line(strong: Bundle, weak: Bundle) -> None:
    console = Console(file=io.StringIO(), width=200)
    too_high = replace(weak, calibration=Calibration(kind="platt", intercept=1.5))
    model_screens.judged(console, judge(make(), strong, too_high))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines()[-1] == "Not better: gain, auc, calibration (11). The champion stays."


def test_without_a_challenger_there_is_nothing_to_judge_and_nothing_fails(world: World) -> None:
    done = winback(world, "evaluate")
    assert (done.returncode, done.stdout) == (0, "No challenger exists. Train one: winback train\n")
    told = winback(world, "evaluate", "--json")
    assert json.loads(told.stdout)["is_better"] is False


def test_without_a_champion_training_is_what_to_do(world: World) -> None:
    (world.folder / "models" / CHAMPION).unlink()
    with world.context() as context, pytest.raises(ContractError, match="No champion exists to compare with"):
        evaluate(context)


def test_an_altered_challenger_is_refused_before_anything_is_built(world: World) -> None:
    _, challenger = challenged(world)
    (world.folder / "models" / challenger / "model.json").write_text("{}")
    with world.context() as context, pytest.raises(ContractError, match=r"model\.json is missing or was altered"):
        evaluate(context)
