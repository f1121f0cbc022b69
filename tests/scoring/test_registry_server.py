"""Registry on a tracking server: the job finds its model there, and works while it is down. Uses a real `mlflow server`."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import ContractError
from core.settings import Settings
from jobs.doctor.local import model
from jobs.models.lifecycle import Aliases, aliases, choose, promote, register_trained, rollback
from jobs.status import status
from scoring.registry import bundles
from scoring.registry.folder import RegistryUnreachableError, connect
from tests.support.builders.registry import FIRST, SECOND, TRAINED_AT, TrackingServer, make_bundle, verdict
from tests.support.environment import World, settings_in

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "model-registry.md"
pytestmark = pytest.mark.xdist_group("tracking server")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with TrackingServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def server(running: TrackingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackingServer:
    """One process for all tests, restarted if a test killed it. Each test has its own registered model."""
    running.start()
    monkeypatch.setattr("scoring.registry.mlflow.MODEL", f"winback-churn-{tmp_path.name}")
    return running


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address without a server, with short timeouts."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"


@pytest.fixture
def settings(server: TrackingServer, tmp_path: Path) -> Settings:
    return settings_in(tmp_path, registry=server.url)


def another(models: Path, version: str) -> str:
    """Copy the world's model under another version."""
    first = bundles.champion(models)
    assert first
    shutil.copytree(models / first, models / version)
    bundles.write_manifest(models / version, version=version, trained_at=TRAINED_AT, learned_until=TRAINED_AT)
    return version


def elsewhere(settings: Settings, folder: Path) -> Settings:
    """The same registry, as seen from a machine without a model."""
    return settings.model_copy(update={"models": folder})


def test_the_server_of_these_tests_is_started_as_the_guide_says(running: TrackingServer) -> None:
    (line,) = re.findall(r"^mlflow server .*$", GUIDE.read_text(), re.MULTILINE)
    assert re.findall(r"--[a-z-]+", line) == re.findall(r"--[a-z-]+", " ".join(running.command))


def test_a_promotion_and_a_rollback_are_seen_by_another_machine_at_once(settings: Settings, tmp_path: Path) -> None:
    job = elsewhere(settings, tmp_path / "job")
    make_bundle(settings.models, FIRST)
    make_bundle(settings.models, SECOND, '{"weights": [2]}')
    assert [register_trained(settings, version) for version in (FIRST, SECOND)] == ["champion", "challenger"]
    assert choose(job).bundle.version == FIRST

    connect(job.registry_uri, job.models).attach(SECOND, "verdict.json", verdict(FIRST, SECOND))
    promote(settings)
    chosen = choose(job)
    assert (chosen.bundle.version, chosen.fallback) == (SECOND, None)
    assert chosen.bundle.model_path.read_text() == '{"weights": [2]}'
    assert aliases(job) == Aliases(settings.registry, SECOND, None, FIRST, on_disk=SECOND)

    rollback(settings)
    assert aliases(job) == Aliases(settings.registry, FIRST, None, None, on_disk=SECOND)
    assert choose(job).bundle.version == FIRST


@pytest.mark.parametrize("name", ["model.json", "manifest.json"])
def test_a_corrupt_artifact_is_one_clear_error_and_the_version_on_disk_is_not_used_in_its_place(
    server: TrackingServer, settings: Settings, tmp_path: Path, name: str
) -> None:
    job = elsewhere(settings, tmp_path / "job")
    make_bundle(settings.models, FIRST)
    register_trained(settings, FIRST)
    choose(job)
    made = set(server.artifacts.rglob(name))
    make_bundle(settings.models, SECOND, '{"weights": [2]}')
    register_trained(settings, SECOND)
    (artifact,) = set(server.artifacts.rglob(name)) - made
    artifact.write_bytes(artifact.read_bytes().replace(b"2", b"3"))

    promote(settings, force=True)  # the bundle on this disk is complete
    with pytest.raises(ContractError, match=f"Model bundle {SECOND}: {name} is missing"):
        choose(job)

    assert bundles.versions(job.models) == [FIRST]
    rollback(settings)
    assert choose(job).bundle.version == FIRST


def test_an_hour_uses_what_was_promoted_since_the_last_one(settings: Settings, world: World) -> None:
    first = bundles.champion(world.folder / "models")
    assert first
    settings = settings_in(world.folder, registry=settings.registry)
    with world.context(settings=settings) as context:
        told = status(context)
        assert (told.model_version, told.models.champion, told.models.on_disk) == (None, None, first)
    register_trained(settings, first)
    register_trained(settings, another(settings.models, SECOND))
    assert world.run(1, settings=settings).model_version == first

    promote(settings, force=True)
    assert world.run(2, settings=settings).model_version == SECOND

    used = world.query("select epoch, model_version from ops.runs where kind = 'hourly' order by epoch")
    assert [(row["epoch"], row["model_version"]) for row in used] == [(1, first), (2, SECOND)]
    decided = world.query("select distinct model_version from ops.decisions")
    assert {row["model_version"] for row in decided} == {first, SECOND}


def test_without_server_and_model_nothing_is_decided_or_sent(nowhere: str, world: World) -> None:
    (world.folder / "models" / "champion").unlink()

    with pytest.raises(RegistryUnreachableError, match="This disk has no verified bundle to fall back to"):
        world.run(1, settings=settings_in(world.folder, registry=nowhere))

    assert world.query("select * from ops.decisions") == []
    assert world.crm.store.profiles() == {}


def test_without_server_an_altered_bundle_on_disk_is_not_used(nowhere: str, world: World) -> None:
    settings = settings_in(world.folder, registry=nowhere)
    first = bundles.champion(settings.models)
    assert first
    with (settings.models / first / "model.json").open("a") as model:
        model.write(" ")

    with pytest.raises(ContractError, match=r"model\.json is missing or was altered"):
        world.run(1, settings=settings)

    assert world.query("select * from ops.decisions") == []
    assert world.crm.store.profiles() == {}


def test_the_doctor_tells_of_a_server_that_is_down_and_of_the_model_that_runs_use_meanwhile(
    nowhere: str, world: World
) -> None:
    bundle, found = model(settings_in(world.folder, registry=nowhere))
    assert bundle is not None
    assert [(one.check, one.state) for one in found][:2] == [("registry", "warning"), ("model", "ok")]

    (world.folder / "models" / "champion").unlink()
    bundle, found = model(settings_in(world.folder, registry=nowhere))
    assert (bundle, [(one.check, one.state) for one in found]) == (None, [("registry", "failed")])


def test_neither_promotion_nor_rollback_pretends_while_the_server_is_down(nowhere: str, tmp_path: Path) -> None:
    settings = settings_in(tmp_path, registry=nowhere)
    make_bundle(settings.models, FIRST)
    for act in (
        lambda: promote(settings, FIRST, force=True),
        lambda: rollback(settings),
        lambda: register_trained(settings, FIRST),
    ):
        with pytest.raises(RegistryUnreachableError):
            act()
    assert bundles.champion(settings.models) is None


def test_a_server_that_was_killed_leaves_the_last_verified_model_in_use_and_the_run_says_so(
    server: TrackingServer, settings: Settings, world: World
) -> None:
    settings = settings_in(world.folder, registry=settings.registry)
    first = bundles.champion(settings.models)
    assert first
    register_trained(settings, first)
    world.run(1, settings=settings)
    another(settings.models, SECOND)  # complete on disk, but never promoted
    server.kill()

    result = world.run(2, settings=settings)

    assert (result.model_version, result.stopped) == (first, None)
    assert result.sync.delivered > 0
    told = json.loads(json.dumps(result.as_dict()))["model_fallback"]
    assert told == (
        "The model registry at WINBACK_REGISTRY gave no usable reply (INTERNAL_ERROR). "
        "Used the last verified bundle on disk."
    )
    with world.context(settings=settings) as context:
        assert status(context).models.problem == told.removesuffix(" Used the last verified bundle on disk.")
