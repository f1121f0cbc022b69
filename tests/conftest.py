"""Fixtures that more than one file uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.crm_server import LocalCrm
from tests.world import API_KEY, NOW, World, copy_history, make_history


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    make_history(folder)
    return folder


@pytest.fixture(scope="session")
def parsed() -> dict[str, Any]:
    return {}


@pytest.fixture
def world(history: Path, tmp_path: Path, parsed: dict[str, Any]) -> Iterator[World]:
    copy_history(history, tmp_path)
    with LocalCrm(tmp_path / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        yield World(tmp_path, crm, parsed)
