"""`winback dataset`: its summary of the training examples, and of features that late events have changed since."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from rich.console import Console

from core.errors import ContractError
from jobs.models.dataset import ChangedFeature, Examples, examples
from jobs.output import models as model_screens
from scoring.features_file import load_contract
from tests.support.environment import CONFIG, World, at, settings_in

NAMES = load_contract(CONFIG / "features.yml").names


def by_exit(world: World, table: str) -> dict[str, dict[str, Any]]:
    return {row["exit_id"]: row for row in world.query(f"select * from marts.{table}")}


def told(answer: Examples) -> str:
    out = io.StringIO()
    model_screens.built(Console(file=out, width=200), answer)
    return out.getvalue()


def test_features_that_a_late_event_changed_are_counted_row_by_row(world: World) -> None:
    # Most late events of history's last exits are still to come.
    [late] = world.query(
        "select user_id, exited_at from marts.fct_exit_features_logged "
        f"where exited_at < timestamptz '{at(-1)}' order by exited_at desc limit 1"
    )
    world.append_event(late["user_id"], "help_opened", late["exited_at"] - timedelta(seconds=1), at(0.5))
    world.run(1)
    world.run(24 * 20)
    with world.context(now=lambda: at(24 * 20)) as context:
        found = examples(context)

    logged, known = by_exit(world, "fct_training_examples"), by_exit(world, "fct_exit_features")
    differing = {n: sum(row[n] != known[exit_id][n] for exit_id, row in logged.items()) for n in NAMES}
    assert {each.feature: each.count_examples for each in found.moved} == {n: c for n, c in differing.items() if c}
    assert differing["count_help"] > 0
    assert found.count_moved == sum(any(row[n] != known[e][n] for n in NAMES) for e, row in logged.items())
    untreated = [row["label"] for row in logged.values() if not row["is_treated"]]
    assert found.unfinished_ratio == pytest.approx(sum(untreated) / len(untreated))
    assert found == replace(
        found,
        until=at(24 * 20),
        count_examples=len(logged),
        count_users=len({row["user_id"] for row in logged.values()}),
        count_treated=len(logged) - len(untreated),
        first_exited_at=min(row["exited_at"] for row in logged.values()),
        last_exited_at=max(row["exited_at"] for row in logged.values()),
    )


def test_before_any_exit_has_matured_there_is_nothing_to_learn_from(world: World) -> None:
    with world.context() as context, pytest.raises(ContractError, match=r"No exit has matured by 2026-04-10 00:00 UTC"):
        examples(context, datetime(2026, 4, 10, tzinfo=UTC))


def test_a_feature_that_the_mart_lacks_is_named(world: World) -> None:
    config = world.folder / "config"
    shutil.copytree(CONFIG, config)
    contract = yaml.safe_load((config / "features.yml").read_text())
    contract["features"].append({"name": "moon_phase", "type": "category"})
    (config / "features.yml").write_text(yaml.safe_dump(contract))
    with (
        world.context(settings=settings_in(world.folder, config=config)) as context,
        pytest.raises(ContractError, match="has no column moon_phase, which"),
    ):
        examples(context)


def test_a_person_reads_counts_first_and_then_what_moved() -> None:
    answer = Examples(
        until=at(0),
        count_examples=2_000,
        count_users=900,
        count_treated=30,
        unfinished_ratio=0.4,
        first_exited_at=at(-48),
        last_exited_at=at(-24),
        count_moved=50,
        moved=[ChangedFeature("count_events", 40), ChangedFeature("count_help", 10)],
    )
    assert told(answer).splitlines() == [
        "2,000 examples of 900 users, exits 2026-05-18 16:00 to 2026-05-19 16:00 UTC; 40.0% unfinished",
        "30 held a voucher: training leaves them out",
        "50 (2.5%) were scored before all their events had arrived. Features with a different value today:",
        "feature       examples  share",
        "count_events        40   2.0%",
        "count_help          10   0.5%",
        "Next: winback train",
    ]
    assert told(replace(answer, count_treated=0, count_moved=0, moved=[], unfinished_ratio=None)).splitlines() == [
        "2,000 examples of 900 users, exits 2026-05-18 16:00 to 2026-05-19 16:00 UTC; - unfinished",
        "Next: winback train",
    ]
