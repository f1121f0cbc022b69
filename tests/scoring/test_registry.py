"""Registries, in a folder and embedded: they store versions, aliases and verdicts, and return only what was registered."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import ContractError
from scoring.registry import bundles
from scoring.registry.folder import ALIASES, Registry, RegistryUnreachableError, connect
from tests.support.builders.registry import FIRST, SECOND, make_bundle

ROOT = Path(__file__).parents[2]
# Packages of full mlflow that mlflow-skinny lacks, and git.
BLOCKED = (
    "sqlalchemy",
    "alembic",
    "flask",
    "flask_cors",
    "sklearn",
    "skops",
    "docker",
    "graphene",
    "huey",
    "aiohttp",
    "git",
)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, made once because it takes seconds."""
    path = tmp_path_factory.mktemp("template") / "registry.db"
    path.touch()
    assert connect(f"sqlite:///{path}", path.parent).resolve("champion") is None
    return path


@pytest.fixture
def uri(tmp_path: Path, empty_database: Path) -> str:
    shutil.copy(empty_database, tmp_path / "registry.db")
    return f"sqlite:///{tmp_path / 'registry.db'}"


@pytest.fixture(params=["folder", "embedded"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    uri = "none" if request.param == "folder" else request.getfixturevalue("uri")
    return connect(uri, tmp_path / "models")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


# Both registries


def test_an_alias_stands_for_nothing_until_it_is_pointed_and_again_once_it_is_taken_away(
    registry: Registry, models: Path
) -> None:
    registry.register(make_bundle(models, FIRST))
    assert [registry.resolve(alias) for alias in ALIASES] == [None, None, None]

    registry.point("challenger", FIRST)
    assert [registry.resolve(alias) for alias in ALIASES] == [None, FIRST, None]

    registry.point("challenger", None)
    registry.point("challenger", None)
    assert [registry.resolve(alias) for alias in ALIASES] == [None, None, None]


def test_an_alias_moves_to_another_version(registry: Registry, models: Path) -> None:
    for version in (FIRST, SECOND):
        registry.register(make_bundle(models, version))
        registry.point("champion", version)

    assert registry.resolve("champion") == SECOND
    assert registry.fetch(SECOND, models).version == SECOND


def test_registering_again_changes_nothing(registry: Registry, models: Path) -> None:
    bundle = make_bundle(models, FIRST)
    registry.register(bundle)
    registry.point("champion", FIRST)
    registry.attach(FIRST, "verdict.json", "{}")

    registry.register(bundle)

    assert (registry.resolve("champion"), registry.attached(FIRST, "verdict.json")) == (FIRST, "{}")


def test_what_is_attached_last_is_kept_and_leaves_the_bundle_whole(registry: Registry, models: Path) -> None:
    registry.register(make_bundle(models, FIRST))
    assert registry.attached(FIRST, "verdict.json") is None

    registry.attach(FIRST, "verdict.json", '{"is_better": false}')
    registry.attach(FIRST, "verdict.json", '{"is_better": true, "note": "später"}')

    assert registry.attached(FIRST, "verdict.json") == '{"is_better": true, "note": "später"}'
    assert registry.attached(FIRST, "other.json") is None
    assert registry.fetch(FIRST, models).version == FIRST


def test_a_version_that_nobody_registered_is_no_champion(registry: Registry, models: Path) -> None:
    registry.register(make_bundle(models, FIRST))
    for act in (
        lambda: registry.point("champion", SECOND),
        lambda: registry.fetch(SECOND, models),
        lambda: registry.attach(SECOND, "verdict.json", "{}"),
    ):
        with pytest.raises(ContractError, match=SECOND):
            act()
    assert registry.resolve("champion") is None


@pytest.mark.parametrize("name", ["../models", "a/b", "", ".hidden", "it's"])
def test_a_name_that_leads_elsewhere_is_refused(registry: Registry, models: Path, name: str) -> None:
    registry.register(make_bundle(models, FIRST))
    for act in (
        lambda: registry.fetch(name, models),
        lambda: registry.point("champion", name),
        lambda: registry.attach(FIRST, name, "{}"),
    ):
        with pytest.raises(ContractError, match="may only have letters, digits"):
            act()


# Only the folder


def test_an_altered_bundle_in_the_folder_is_refused(models: Path) -> None:
    registry = connect("none", models)
    registry.register(make_bundle(models, FIRST))
    (models / FIRST / "model.json").write_text('{"other": 1}')

    with pytest.raises(ContractError, match=r"model\.json is missing or was altered"):
        registry.fetch(FIRST, models)
    with pytest.raises(ContractError, match=r"model\.json is missing or was altered"):
        registry.point("champion", FIRST)


# Only the embedded registry


def test_asking_an_embedded_registry_that_is_not_there_creates_nothing(tmp_path: Path) -> None:
    registry = connect(f"sqlite:///{tmp_path / 'registry.db'}", tmp_path)

    assert (registry.resolve("champion"), registry.attached(FIRST, "verdict.json")) == (None, None)
    registry.point("challenger", None)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_fetched_to_another_disk_byte_for_byte(uri: str, models: Path, tmp_path: Path) -> None:
    bundle = make_bundle(models, FIRST, '{"weights": [1, 2]}')
    connect(uri, models).register(bundle)
    elsewhere = tmp_path / "elsewhere"

    fetched = connect(uri, elsewhere).fetch(FIRST, elsewhere)

    assert fetched.folder == elsewhere / FIRST
    assert fetched.contract == bundle.contract
    assert {p.name: p.read_bytes() for p in fetched.folder.iterdir()} == {
        p.name: p.read_bytes() for p in bundle.folder.iterdir()
    }
    assert [p.name for p in elsewhere.iterdir()] == [FIRST]


@pytest.mark.parametrize("damage", ["altered", "removed", "another bundle of that name"])
def test_a_bundle_damaged_on_disk_is_fetched_anew(uri: str, models: Path, damage: str) -> None:
    registry = connect(uri, models)
    registry.register(make_bundle(models, FIRST, '{"weights": [1, 2]}'))
    model = models / FIRST / "model.json"
    if damage == "altered":
        model.write_text("{}")
    elif damage == "removed":
        model.unlink()
    else:
        shutil.rmtree(models / FIRST)
        make_bundle(models, FIRST, '{"weights": [9]}')

    assert registry.fetch(FIRST, models).model_path.read_text() == '{"weights": [1, 2]}'
    assert bundles.versions(models) == [FIRST]


@pytest.mark.parametrize("name", ["model.json", "contract.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["altered", "removed"])
def test_a_damaged_artifact_is_one_clear_error_unless_the_disk_has_the_version_whole(
    uri: str, models: Path, tmp_path: Path, name: str, damage: str
) -> None:
    registry = connect(uri, models)
    registry.register(make_bundle(models, FIRST))
    (artifact,) = (models / "artifacts").glob(f"*/artifacts/{name}")
    artifact.unlink() if damage == "removed" else artifact.write_bytes(artifact.read_bytes() + b" ")
    elsewhere = tmp_path / "elsewhere"

    with pytest.raises(ContractError, match=f"Model bundle {FIRST}: {name} is missing"):
        connect(uri, elsewhere).fetch(FIRST, elsewhere)

    assert list(elsewhere.iterdir()) == []
    assert registry.fetch(FIRST, models).version == FIRST


def test_another_bundle_under_a_registered_version_is_refused(uri: str, models: Path, tmp_path: Path) -> None:
    connect(uri, models).register(make_bundle(models, FIRST))
    other = make_bundle(tmp_path / "other", FIRST, '{"weights": [9]}')

    with pytest.raises(ContractError, match="holds another bundle"):
        connect(uri, models).register(other)


def test_a_database_that_cannot_be_read_counts_as_unreachable_and_its_text_is_not_repeated(
    uri: str, models: Path, tmp_path: Path
) -> None:
    (tmp_path / "registry.db").write_text("this is not a database, but a canary")

    with pytest.raises(RegistryUnreachableError) as told:
        connect(uri, models).resolve("champion")
    assert "canary" not in str(told.value)
    assert str(told.value).startswith("The model registry in registry.db gave no usable reply (")


def test_the_client_of_a_server_needs_no_database_no_web_server_and_no_git(tmp_path: Path) -> None:
    program = f"""
import sys
from importlib.machinery import PathFinder
blocked = {BLOCKED}
class Without:
    def __init__(self, finders):
        self.finders = finders
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            return None
        return next(filter(None, (finder.find_spec(name, path, target) for finder in self.finders)), None)
    def find_distributions(self, context):
        return [found for found in PathFinder.find_distributions(context) if found.name != "mlflow"]
sys.meta_path[:] = [Without(list(sys.meta_path))]
from pathlib import Path
from scoring.registry.folder import RegistryUnreachableError, connect
try:
    connect("http://127.0.0.1:9", Path("models")).resolve("champion")
except RegistryUnreachableError as error:
    print(error)
try:
    Path("registry.db").touch()
    connect("sqlite:///registry.db", Path("models")).resolve("champion")
except Exception as error:
    print(error)
"""
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "The model registry at WINBACK_REGISTRY gave no usable reply (INTERNAL_ERROR).",
        "The embedded model registry needs sqlalchemy, which the scoring image leaves out. "
        "Set WINBACK_REGISTRY to a tracking server, or to none.",
    ]
