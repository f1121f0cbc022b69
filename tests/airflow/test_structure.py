"""Structure of the DAGs: tasks, order, images, limits, and alerts."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.triggers.callback import CallbackTrigger
from conftest import DAGS

Load = Callable[..., Any]
EDGES = {
    "winback_training": {
        "check_data": {"collect_examples"},
        "collect_examples": {"train"},
        "train": {"evaluate"},
        "evaluate": {"promote"},
        "promote": set(),
    },
    "winback_dbt": {"nightly": {"is_audit_day"}, "is_audit_day": {"audit"}, "audit": set()},
}
UNTIL = "{{ data_interval_end | default(dag_run.run_after, true) | ds }}"
WORDS = {
    "check_data": ["audit"],
    "collect_examples": ["dataset", "--until", UNTIL],
    "train": ["train", "--until", UNTIL],
    "evaluate": ["evaluate"],
    "promote": ["promote"],
    "nightly": ["rebuild"],
    "audit": ["audit"],
}
every_dag = pytest.mark.parametrize("name", EDGES)


def commands(dag: Any) -> dict[str, Any]:
    return {task.task_id: task for task in dag.tasks if task.task_id in WORDS}


def test_airflow_reads_the_folder_without_an_error(database: None) -> None:
    bag = DagBag(str(DAGS))
    assert bag.import_errors == {}
    assert set(bag.dags) == set(EDGES)


@every_dag
def test_a_dag_has_these_tasks_in_this_order(name: str, dag: Load, written: dict[str, Any]) -> None:
    assert {t.task_id: t.downstream_task_ids for t in dag(name, written).tasks} == EDGES[name]


@every_dag
def test_runs_neither_overlap_nor_catch_up_and_are_told_of_when_late(
    name: str, dag: Load, written: dict[str, Any]
) -> None:
    found = dag(name, written)
    (alert,) = found.deadline
    minutes = written["dags"][name]["deadline_minutes"]
    assert (found.max_active_runs, found.catchup) == (1, False)
    assert (alert.reference.reference_name, alert.interval) == ("DagRunQueuedAtDeadline", timedelta(minutes=minutes))
    assert alert.callback.path == "winback_airflow.alerts.LogLine"
    assert found.dagrun_timeout > alert.interval


@every_dag
def test_every_command_runs_within_the_limits_of_the_file(name: str, dag: Load, written: dict[str, Any]) -> None:
    written["pod"] |= {"node_selector": {"pool": "batch"}, "env": {"WINBACK_REGISTRY": "http://mlflow:5000"}}
    written["tasks"]["train"]["node_selector"] = {"pool": "large"}
    for task_id, task in commands(dag(name, written)).items():
        limits = written["tasks"][task_id]
        assert (task.cmds, task.arguments) == (["winback"], WORDS[task_id])
        assert task.container_resources.requests == {"cpu": limits["cpu"], "memory": limits["memory"]}
        assert task.container_resources.limits == {"memory": limits["memory"]}
        assert task.active_deadline_seconds == limits["timeout_minutes"] * 60
        assert task.retries == limits["retries"] > 0
        assert task.retry_exponential_backoff
        assert task.retry_delay == timedelta(minutes=limits["retry_delay_minutes"])
        assert task.node_selector == {"pool": "large" if task_id == "train" else "batch"}
        assert task.env_vars == {"WINBACK_REGISTRY": "http://mlflow:5000"}
        assert (task.namespace, task.service_account_name) == ("winback", "winback-training")
        assert (task.durable, task.on_finish_action.value) == (True, "delete_pod")
        assert task.automount_service_account_token is False
        assert [type(each).__name__ for each in task.on_failure_callback] == ["LogLine"]


def test_images_are_read_from_variables_when_a_task_begins(dag: Load, written: dict[str, Any]) -> None:
    tasks = {**commands(dag("winback_training", written)), **commands(dag("winback_dbt", written))}
    scoring, training = "{{ var.value.winback_scoring_image }}", "{{ var.value.winback_training_image }}"
    assert {name: task.image for name, task in tasks.items()} == {
        "check_data": scoring,
        "collect_examples": scoring,
        "train": training,
        "evaluate": training,
        "promote": training,
        "nightly": scoring,
        "audit": scoring,
    }
    assert "image" in tasks["train"].template_fields


def test_only_a_promotion_may_be_skipped(dag: Load, written: dict[str, Any]) -> None:
    tasks = commands(dag("winback_training", written))
    assert {name: list(task.skip_on_exit_code) for name, task in tasks.items()} == {
        "check_data": [],
        "collect_examples": [],
        "train": [],
        "evaluate": [],
        "promote": [4],
    }


@pytest.mark.skipif(
    not importlib.util.find_spec("airflow.providers.google"), reason="the Google provider (1.2 GB) is not installed"
)
@every_dag
def test_on_gke_the_same_tasks_name_the_cluster(name: str, dag: Load, written: dict[str, Any]) -> None:
    cluster = {"project_id": "some-project", "location": "europe-west1", "cluster_name": "some-cluster"}
    written |= {"runner": "gke", "gke": cluster}
    found = dag(name, written)
    assert {t.task_id: t.downstream_task_ids for t in found.tasks} == EDGES[name]
    for task in commands(found).values():
        assert type(task).__name__ == "WinbackGkeOperator"
        assert {field: getattr(task, field) for field in cluster} == cluster
        assert task.container_resources.limits == {"memory": written["tasks"][task.task_id]["memory"]}


def test_a_run_that_is_late_is_told_by_the_triggerer(dag: Load, written: dict[str, Any], tmp_path: Path) -> None:
    mailbox = tmp_path / "mailbox"
    written["alerts"]["notifier"] = "recording.Record"
    written["alerts"]["arguments"] = {"file": str(mailbox)}
    callback = dag("winback_training", written).deadline[0].callback
    # As Deadline.handle_miss does: it adds the facts about the run.
    context = {"dag_run": {"dag_id": "winback_training"}, "deadline": {"id": "1"}}

    async def told() -> list[Any]:
        trigger = CallbackTrigger(callback.path, {**callback.kwargs, "context": context})
        return [event.payload["state"] async for event in trigger.run()]

    assert [str(getattr(state, "value", state)) for state in asyncio.run(told())] == ["running", "success"]
    assert mailbox.read_text() == "winback_training did not finish in time\n"
