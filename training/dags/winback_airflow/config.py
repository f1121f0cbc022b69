"""Reads and validates `config/airflow.yml`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DEFAULT = Path(__file__).resolve().parents[3] / "config" / "airflow.yml"
Dag = Literal["winback_training", "winback_dbt"]
Task = Literal["check_data", "collect_examples", "train", "evaluate", "promote", "nightly", "audit"]
# Kubernetes names: lower-case letters, digits and hyphens, at most 63 characters.
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]

MAX_MINUTES = 60 * 24 * 366


class ConfigError(Exception):
    """The file cannot be used. Airflow shows the text as the DAG's import error."""


class Section(BaseModel):
    """Strict base: a misspelt key is an error, not a default, and true is not 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Images(Section):
    """References by digest, as templates of Airflow Variables."""

    training: str = Field(min_length=1)
    scoring: str = Field(min_length=1)


class Pod(Section):
    """Settings shared by all tasks."""

    namespace: Name
    service_account_name: Name
    automount_service_account_token: bool = False
    node_selector: dict[str, str] = {}
    env: dict[str, str] = {}
    config_maps: list[Name] = []
    secrets: list[Name] = []
    data_claim: Name | Literal[""] = ""
    startup_timeout_seconds: int = Field(600, gt=0, le=86_400)


class Gke(Section):
    """The cluster, for runner gke."""

    project_id: str = ""
    location: str = ""
    cluster_name: str = ""


class Times(Section):
    """A DAG's schedule, as a cron expression in UTC, and its deadline."""

    schedule: str | None
    deadline_minutes: int = Field(gt=0, le=MAX_MINUTES)


class DbtTimes(Times):
    """`audit_weekday`: 1 is Monday, 7 is Sunday."""

    audit_weekday: int = Field(ge=1, le=7)


class Dags(Section):
    """One section per DAG."""

    winback_training: Times
    winback_dbt: DbtTimes


class Limits(Section):
    """Resources of one task. Memory and CPU are requests; limits apply to both. `timeout_minutes` applies to one try."""

    cpu: str = Field(pattern=r"^[1-9][0-9]{0,5}m?$")
    memory: str = Field(pattern=r"^[1-9][0-9]{0,6}[MG]i$")
    retries: int = Field(ge=0, le=100)
    retry_delay_minutes: float = Field(gt=0, le=MAX_MINUTES)
    timeout_minutes: int = Field(gt=0, le=MAX_MINUTES)
    node_selector: dict[str, str] = {}


class Alerts(Section):
    """A notifier class by its dotted path, and its arguments: common ones, and those of each message."""

    notifier: str = Field(pattern=r"^[A-Za-z_]\w*(\.\w+)+$")
    arguments: dict[str, Any] = {}
    failed: dict[str, Any]
    late: dict[str, Any]


class Config(Section):
    """The whole file. `command` precedes a task's arguments; a test may replace it."""

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


class _Loader(yaml.SafeLoader):
    """YAML that refuses what a standard loader misreads without an error: a repeated key, a tag, unbounded nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Build one node, at most 20 levels deep."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or self.depth == 20 or getattr(event, "tag", None):
            what = "an alias, a tag or more than 20 levels: write the plain value"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Build a mapping with unique keys."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in lines:
                what = f"{key.value} is given twice, in lines {lines[key.value]} and {line}: keep one"
                raise yaml.MarkedYAMLError(problem=what, problem_mark=key.start_mark)
            lines[str(key.value)] = line
        return super().construct_mapping(node, deep)


def read_config(path: Path | None = None) -> Config:
    """Read `path`, or the file named by AIRFLOW_WINBACK_CONFIG, or the repository's file.

    Raises: ConfigError that lists every mistake, each with its place in the file.
    """
    path = path or Path(os.environ.get("AIRFLOW_WINBACK_CONFIG") or DEFAULT)
    try:
        return Config.model_validate(yaml.load(path.read_text(encoding="utf-8-sig"), _Loader))  # noqa: S506 - safe
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}. Set AIRFLOW_WINBACK_CONFIG to use another file."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path.name} is not UTF-8. Save it as UTF-8.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path.name}{line} is not valid YAML: {getattr(error, 'problem', None) or error}") from None
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors(include_input=False, include_url=False)
        ]
        raise ConfigError(f"{path.name} cannot be used:\n" + "\n".join(lines)) from None
