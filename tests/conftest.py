"""Fixtures shared by several test files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dbt_common.behavior_flags import BehaviorFlagRendered
from hypothesis import settings

from sandbox.local_crm.server import LocalCrm
from tests.support import data_tests
from tests.support.builders.erase import told_world
from tests.support.environment import API_KEY, NOW, World, copy_history, make_history, small_app
from tests.support.vendor_specs import not_checked

if TYPE_CHECKING:
    from tests.support.bigquery_emulator.process import Emulator
    from tests.support.bigquery_environment import BigQueryWorld


# Property tests use the same examples in every run, without deadline, because a loaded machine is not a counterexample.
settings.register_profile("winback", derandomize=True, database=None, deadline=None)
settings.load_profile("winback")


def pytest_configure() -> None:
    # Data tests are a quarter of an hourly run's processor time. They run in marked tests, and in all with DATA_TESTS=all.
    if os.environ.get("DATA_TESTS") != "all":
        os.environ[data_tests.NAME] = data_tests.WITHOUT
    # dbt searches the call stack, frame by frame, for the module that registers each of its flags. With pytest's deep stack and
    # the thousands of imported modules, that took three seconds of every build.
    BehaviorFlagRendered._default_source = staticmethod(lambda: "tests")  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _data_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run dbt's data tests in a test, or a file, that is marked with `data_tests`."""
    with data_tests.with_data_tests() if request.node.get_closest_marker("data_tests") else nullcontext():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if line := not_checked():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    make_history(folder)
    return folder


@pytest.fixture(scope="session")
def parsed() -> dict[str, Any]:
    return {}


@pytest.fixture(scope="session")
def six_hours(history: Path, parsed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse and a CRM after a first run that sent users."""
    folder = tmp_path_factory.mktemp("six-hours")
    with told_world(history, folder, parsed) as world:
        world.run(6)
    return folder


@pytest.fixture
def told(six_hours: Path, tmp_path: Path, parsed: dict[str, Any]) -> Iterator[World]:
    """A copy of the world after six hours, for one test."""
    with told_world(six_hours, tmp_path, parsed) as world:
        yield world


@pytest.fixture
def world(history: Path, tmp_path: Path, parsed: dict[str, Any]) -> Iterator[World]:
    copy_history(history, tmp_path)
    with LocalCrm(tmp_path / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        yield World(tmp_path, crm, parsed)


@pytest.fixture(scope="session")
def running_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    from tests.support.bigquery_emulator.process import Emulator  # noqa: PLC0415 - takes two seconds; only for tests of BigQuery

    with Emulator(tmp_path_factory.mktemp("emulator")) as emulator:
        yield emulator


@pytest.fixture
def emulator(running_emulator: Emulator) -> Iterator[Emulator]:
    """One process for all tests. Each test uses its own datasets and leaves no fault behind."""
    running_emulator.forget()
    yield running_emulator
    running_emulator.forget()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A prefix for a test's own datasets."""
    return f"t{abs(hash(request.node.nodeid)):x}"


@pytest.fixture(scope="session")
def twin_worlds(
    running_emulator: Emulator, parsed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[World, BigQueryWorld]]:
    """The same history in DuckDB and in BigQuery. In both, each test continues where the previous one ended."""
    from tests.support.bigquery_environment import twins  # noqa: PLC0415

    app = small_app(3, count_users=1_500)
    with twins(running_emulator, "twins3", app, tmp_path_factory.mktemp("twins"), parsed) as worlds:
        yield worlds
