"""Runs of the DAGs, with processes instead of pods: done, nothing to promote, retried, failed for good."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

SUNDAY = datetime(2026, 6, 7, 2, 35, tzinfo=UTC)
MONDAY = datetime(2026, 6, 8, 5, 15, tzinfo=UTC)
EXAMPLES, TRAIN = ([word, "--until", "2026-06-08"] for word in ("dataset", "train"))
DIGEST = "registry.example/winback-training@sha256:0123"


class Ended:
    """A run, the calls it made, and the alerts it sent."""

    def __init__(self, run: Any, tmp_path: Path) -> None:
        self.state = str(run.state)
        self.tasks = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
        lines = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
        self.calls = [line["words"] for line in lines]
        self.environments = [line["environment"] for line in lines]
        mailbox = tmp_path / "mailbox"
        self.told = mailbox.read_text().splitlines() if mailbox.exists() else []


@pytest.fixture
def run(database: None, dag: Callable[..., Any], written: dict[str, Any], tmp_path: Path) -> Callable[..., Ended]:
    """Runs a DAG in which winback exits with these codes, one a try; the last code repeats."""

    def act(name: str, when: datetime, codes: dict[str, list[int]] | None = None) -> Ended:
        written["runner"] = "process"
        written["command"] = [sys.executable, str(Path(__file__).parent / "stand_in.py")]
        written["pod"]["env"] = {"STAND_IN_LOG": str(tmp_path / "calls"), "STAND_IN_CODES": json.dumps(codes or {})}
        written["alerts"] |= {"notifier": "recording.Record", "arguments": {"file": str(tmp_path / "mailbox")}}
        for limits in written["tasks"].values():
            limits |= {"retries": 2, "retry_delay_minutes": 0.00001}
        found = dag(name, written)
        # Airflow 3.3's test() cannot end a run that has a deadline: it looks in its database for an alert that was not written.
        found.deadline = []
        return Ended(found.test(logical_date=when, run_after=when), tmp_path)

    return act


@pytest.fixture(autouse=True)
def deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the images into Variables, as a deployment does."""
    monkeypatch.setenv("AIRFLOW_VAR_WINBACK_TRAINING_IMAGE", DIGEST)
    monkeypatch.setenv("AIRFLOW_VAR_WINBACK_SCORING_IMAGE", "registry.example/winback@sha256:0123")


def test_a_better_challenger_is_promoted(run: Callable[..., Ended]) -> None:
    ended = run("winback_training", MONDAY)
    assert ended.state == "success"
    assert set(ended.tasks.values()) == {"success"}
    assert ended.calls == [["audit"], EXAMPLES, TRAIN, ["evaluate"], ["promote"]]
    assert ended.told == []


def test_a_challenger_that_is_not_better_is_a_green_run_with_the_promotion_skipped(run: Callable[..., Ended]) -> None:
    ended = run("winback_training", MONDAY, {"promote": [4]})
    assert ended.state == "success"
    done = dict.fromkeys(("check_data", "collect_examples", "train", "evaluate"), "success")
    assert ended.tasks == {**done, "promote": "skipped"}
    assert ended.calls.count(["promote"]) == 1
    assert ended.told == []


def test_what_is_safe_to_retry_is_tried_again_with_the_same_words(run: Callable[..., Ended]) -> None:
    ended = run("winback_training", MONDAY, {"train": [1, 0]})
    assert ended.state == "success"
    assert ended.calls == [["audit"], EXAMPLES, TRAIN, TRAIN, ["evaluate"], ["promote"]]
    assert ended.told == []


@pytest.mark.parametrize("code", [2, 3])
def test_configuration_and_what_a_person_should_look_at_are_not_tried_again(
    code: int, run: Callable[..., Ended]
) -> None:
    ended = run("winback_training", MONDAY, {"train": [code]})
    assert ended.state == "failed"
    assert ended.calls == [["audit"], EXAMPLES, TRAIN]
    assert ended.tasks == {
        "check_data": "success",
        "collect_examples": "success",
        "train": "failed",
        "evaluate": "upstream_failed",
        "promote": "upstream_failed",
    }
    assert ended.told == ["winback_training: train failed"]


def test_who_is_on_duty_hears_of_a_failure_once_after_the_last_try(run: Callable[..., Ended]) -> None:
    ended = run("winback_training", MONDAY, {"evaluate": [1]})
    assert ended.state == "failed"
    assert ended.calls.count(["evaluate"]) == 3
    assert ended.told == ["winback_training: evaluate failed"]


def test_rows_that_differ_stop_the_training(run: Callable[..., Ended]) -> None:
    ended = run("winback_training", MONDAY, {"audit": [3]})
    assert (ended.state, ended.calls) == ("failed", [["audit"]])


def test_an_image_that_was_never_deployed_fails_before_anything_runs(
    run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AIRFLOW_VAR_WINBACK_SCORING_IMAGE")
    (tmp_path / "calls").touch()
    ended = run("winback_training", MONDAY)
    assert (ended.state, ended.calls) == ("failed", [])


def test_a_command_sees_nothing_of_airflows_environment(run: Callable[..., Ended]) -> None:
    for seen in run("winback_dbt", MONDAY).environments:
        assert [name for name in seen if name.startswith("AIRFLOW")] == []


@pytest.mark.parametrize(
    ("day", "calls", "audit"), [(SUNDAY, [["rebuild"], ["audit"]], "success"), (MONDAY, [["rebuild"]], "skipped")]
)
def test_the_audit_follows_the_night_on_its_day_alone(
    day: datetime, calls: list[list[str]], audit: str, run: Callable[..., Ended]
) -> None:
    ended = run("winback_dbt", day)
    assert (ended.state, ended.calls, ended.tasks["audit"]) == ("success", calls, audit)


def test_a_night_that_met_an_hourly_run_is_tried_again(run: Callable[..., Ended]) -> None:
    ended = run("winback_dbt", MONDAY, {"rebuild": [1, 1, 0]})
    assert (ended.state, ended.calls) == ("success", [["rebuild"]] * 3)
    assert ended.told == []
