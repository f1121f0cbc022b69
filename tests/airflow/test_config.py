"""config/airflow.yml: each mistake is reported with its place."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import DAGS
from winback_airflow.config import ConfigError, read_config


def test_the_file_of_the_repository_is_all_right() -> None:
    config = read_config()
    assert config.runner == "kubernetes"
    assert config.tasks["train"].memory == "16Gi"


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        (("runner",), "docker", "runner: Input should be 'kubernetes', 'gke' or 'process'"),
        (("pod", "namespase"), "x", "pod.namespase: Extra inputs are not permitted"),
        (("pod", "namespace"), "Not_A_Name", "pod.namespace: String should match pattern"),
        (("tasks", "train", "memory"), "16GB", "tasks.train.memory: String should match pattern"),
        (("tasks", "train", "memory"), "99999999Gi", "tasks.train.memory: String should match pattern"),
        (("tasks", "train", "cpu"), "9" * 30, "tasks.train.cpu: String should match pattern"),
        (("tasks", "trian"), {}, "tasks.trian.[key]: Input should be 'check_data', 'collect_examples'"),
        (("dags", "winback_dbt", "audit_weekday"), 0, "dags.winback_dbt.audit_weekday: Input should be greater than"),
        (("tasks", "train", "retries"), True, "tasks.train.retries: Input should be a valid integer"),
        (("tasks", "train", "timeout_minutes"), 3_000_000, "tasks.train.timeout_minutes: Input should be less than"),
        (("runner",), "gke", "runner gke needs gke.project_id, gke.location, gke.cluster_name"),
    ],
)
def test_a_mistake_is_told_with_its_place(
    where: tuple[str, ...], value: object, told: str, written: dict[str, Any], tmp_path: Path
) -> None:
    section = written
    for key in where[:-1]:
        section = section[key]
    section[where[-1]] = value
    path = tmp_path / "airflow.yml"
    path.write_text(yaml.safe_dump(written))
    with pytest.raises(ConfigError, match=r"^airflow\.yml cannot be used:") as error:
        read_config(path)
    assert told in str(error.value)


def test_a_task_without_limits_is_told(written: dict[str, Any], tmp_path: Path) -> None:
    del written["tasks"]["evaluate"]
    (tmp_path / "airflow.yml").write_text(yaml.safe_dump(written))
    with pytest.raises(ConfigError, match="tasks lacks evaluate"):
        read_config(tmp_path / "airflow.yml")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"runner: gke\npod:\n  a: 1\nrunner: process",
            "line 4 is not valid YAML: runner is given twice, in lines 1 and 4: keep one",
        ),
        (b"pod: {a: 1, a: 2}", "line 1 is not valid YAML: a is given twice, in lines 1 and 1: keep one"),
        (b"a: " + b"[" * 20_000, "line 1 is not valid YAML: an alias, a tag or more than 20 levels"),
        (b"a: &a [*a]", "line 1 is not valid YAML: an alias, a tag or more than 20 levels"),
        (b"a: [", "is not valid YAML: expected the node content"),
        (b"a: \xe4", "airflow.yml is not UTF-8. Save it as UTF-8."),
    ],
)
def test_a_file_that_yaml_would_take_for_something_else_is_told(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "airflow.yml").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_config(tmp_path / "airflow.yml")
    assert told in str(error.value)


def test_a_file_that_is_not_there_is_told_with_the_variable_that_names_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: No such file or directory\. Set AIRFLOW_WINBACK_CONFIG"):
        read_config(tmp_path / "none.yml")


def test_the_dags_import_nothing_of_winback() -> None:
    rooms = {"core", "scoring", "crm_sync", "warehouse", "jobs", "training", "sandbox"}
    imported = set()
    for path in DAGS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
    assert "airflow" in imported
    assert imported & rooms == set()
