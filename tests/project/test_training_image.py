"""Training image: it holds the packages that training uses, and none that only development or Airflow use."""

from __future__ import annotations

import re
from pathlib import Path

HOUSE = Path(__file__).parents[2]


def locked(name: str) -> dict[str, str]:
    """Return the versions in a lock file, by package."""
    text = (HOUSE / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", text, re.MULTILINE))


def test_the_training_image_holds_the_rooms_of_the_job_and_training() -> None:
    dockerfile = (HOUSE / "training" / "Dockerfile").read_text()
    copied = set(re.findall(r"^COPY (\w+) \1$", dockerfile, re.MULTILINE))
    assert copied == {"core", "scoring", "crm_sync", "warehouse", "jobs", "dbt", "config", "training"}
    allowed = (HOUSE / "training" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{room}" for room in copied} <= set(allowed)
    assert allowed.index("training/dags") > allowed.index("!training")


def test_its_lock_is_the_jobs_and_the_libraries_that_train() -> None:
    job, training, dev = locked("job"), locked("training"), locked("dev")
    assert {name: training.get(name) for name in job} == job
    assert {name: dev.get(name) for name in training} == training
    assert {"matplotlib", "scikit-learn"} <= set(training)
    assert {"pytest", "ruff", "mypy", "hypothesis", "apache-airflow"} & set(training) == set()


def test_airflow_is_in_no_lock_but_its_own() -> None:
    assert "apache-airflow" in locked("airflow")
    assert [name for name in ("job", "laptop", "training", "dev") if "apache-airflow" in locked(name)] == []
