"""Fixtures: an Airflow of its own in a temporary folder, and the DAGs under a given configuration."""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

HOUSE = Path(__file__).parents[2]
DAGS = HOUSE / "training" / "dags"

# Set before Airflow is imported: it reads them at import, and would otherwise write into the home folder.
_HOME = tempfile.mkdtemp(prefix="airflow-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ |= {
    "AIRFLOW_HOME": _HOME,
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
}
os.environ.pop("AIRFLOW_WINBACK_CONFIG", None)


@pytest.fixture
def written() -> dict[str, Any]:
    """The repository's config/airflow.yml, for tests to change."""
    found: dict[str, Any] = yaml.safe_load((HOUSE / "config" / "airflow.yml").read_text())
    return found


@pytest.fixture
def dag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A DAG of the repository under the given configuration."""

    def load(name: str, config: dict[str, Any]) -> Any:
        path = tmp_path / "airflow.yml"
        path.write_text(yaml.safe_dump(config))
        monkeypatch.setenv("AIRFLOW_WINBACK_CONFIG", str(path))
        sys.modules.pop(name, None)
        return importlib.import_module(name).dag

    return load


@pytest.fixture(scope="session")
def database() -> None:
    """Airflow's own tables, on SQLite."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
