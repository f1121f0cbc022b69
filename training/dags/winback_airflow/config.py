"""What does `config/airflow.yml` say, and is it all right?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DEFAULT = Path(__file__).resolve().parents[3] / "config" / "airflow.yml"
Dag = Literal["winback_training", "winback_dbt"]
Task = Literal["check_data", "collect_examples", "train", "evaluate", "promote", "nightly", "audit"]
# Kubernetes: lower-case words with hyphens between, at most 63 characters.
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class ConfigError(Exception):
    """The file cannot be used; Airflow shows the text as the DAG's import error."""


class Section(BaseModel):
    """A misspelt key is an error, not a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Images(Section):
    """References by digest, as templates of Airflow Variables."""

    training: str = Field(min_length=1)
    scoring: str = Field(min_length=1)


class Pod(Section):
    """What is the same for every task."""

    namespace: Name
    service_account_name: Name
    automount_service_account_token: bool = False
    node_selector: dict[str, str] = {}
    env: dict[str, str] = {}
    config_maps: list[Name] = []
    secrets: list[Name] = []
    data_claim: Name | Literal[""] = ""
    startup_timeout_seconds: int = Field(600, gt=0)


class Gke(Section):
    """Which cluster, with runner gke."""

    project_id: str = ""
    location: str = ""
    cluster_name: str = ""


class Times(Section):
    """When a DAG runs, in cron's words and UTC, and when it is late."""

    schedule: str | None
    deadline_minutes: int = Field(gt=0)


class DbtTimes(Times):
    """`audit_weekday`: 1 is Monday, 7 is Sunday."""

    audit_weekday: int = Field(ge=1, le=7)


class Dags(Section):
    """One section a DAG."""

    winback_training: Times
    winback_dbt: DbtTimes


class Limits(Section):
    """What one task may use: requested and, for both, the limit. `timeout_minutes` is for one try."""

    cpu: str = Field(pattern=r"^[1-9][0-9]*m?$")
    memory: str = Field(pattern=r"^[1-9][0-9]*[MG]i$")
    retries: int = Field(ge=0)
    retry_delay_minutes: float = Field(gt=0)
    timeout_minutes: int = Field(gt=0)
    node_selector: dict[str, str] = {}


class Alerts(Section):
    """A notifier class by its dotted path, and its arguments: common ones, and those of either message."""

    notifier: str = Field(pattern=r"^[A-Za-z_]\w*(\.\w+)+$")
    arguments: dict[str, Any] = {}
    failed: dict[str, Any]
    late: dict[str, Any]


class Config(Section):
    """The whole file. `command` is what a task's words are put behind; a test may put something else there."""

    runner: Literal["kubernetes", "gke", "process"]
    command: list[str] = Field(["winback"], min_length=1)
    images: Images
    pod: Pod
    gke: Gke = Gke()
    dags: Dags
    tasks: dict[Task, Limits]
    alerts: Alerts

    @model_validator(mode="after")
    def _is_whole(self) -> Config:
        absent = sorted(set(Task.__args__) - set(self.tasks))  # type: ignore[attr-defined]
        if absent:
            raise ValueError(f"tasks lacks {', '.join(absent)}")
        unset = [name for name, value in self.gke.model_dump().items() if not value]
        if self.runner == "gke" and unset:
            raise ValueError(f"runner gke needs {', '.join(f'gke.{name}' for name in unset)}")
        return self


def read_config(path: Path | None = None) -> Config:
    """Read `path`, or what AIRFLOW_WINBACK_CONFIG names, or the file of the repository.

    Raises: ConfigError that lists every mistake at once, by its place in the file.
    """
    path = path or Path(os.environ.get("AIRFLOW_WINBACK_CONFIG") or DEFAULT)
    try:
        return Config.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}. AIRFLOW_WINBACK_CONFIG may name another."
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name} is no YAML: {error}") from None
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors(include_input=False, include_url=False)
        ]
        raise ConfigError(f"{path.name} cannot be used:\n" + "\n".join(lines)) from None
