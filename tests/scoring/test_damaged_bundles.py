"""Damaged bundles, pointers and registries: the error names the file and the remedy, with exit code 2 and no traceback."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ContractError, WinbackError
from core.settings import Settings
from jobs.models.lifecycle import aliases, choose, promote
from scoring.model import Model
from scoring.registry.bundles import load_bundle
from scoring.registry.folder import CHAMPION, connect
from tests.support.builders.registry import FIRST, SECOND, make_bundle
from training.evaluation.psi import last_reference

REMEDY = "Restore it, or promote another version: winback promote VERSION"
DEPLOY = "Deploy the program that wrote it, or promote another version: winback promote VERSION"


def sealed(models: Path, name: str, content: bytes) -> None:
    """Replace a file of the bundle, and its hash in the manifest, as if it had been written so."""
    folder = models / FIRST
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refusal(models: Path) -> str:
    with pytest.raises(ContractError) as caught:
        load_bundle(models, FIRST)
    assert (caught.value.exit_code, caught.value.__suppress_context__ or caught.value.__context__ is None) == (2, True)
    return str(caught.value).removeprefix(f"Model bundle {FIRST}: ")


UNREADABLE = [
    (b"[]", f"cannot be used (it is not a JSON object). {REMEDY}"),
    (b"null", f"cannot be used (it is not a JSON object). {REMEDY}"),
    (b"", f"cannot be used (it is not valid JSON). {REMEDY}"),
    (b'{"format": 2', f"cannot be used (it is not valid JSON). {REMEDY}"),
    (b"\xff\xfe{}", f"cannot be used (it is not UTF-8). {REMEDY}"),
    (b'{"a": ' + b"[" * 200_000, f"cannot be used (it is not valid JSON). {REMEDY}"),
]


@pytest.mark.parametrize("name", ["manifest.json", "contract.json", "calibration.json", "metrics.json"])
@pytest.mark.parametrize(("content", "told"), UNREADABLE, ids=lambda value: repr(value[:12]))
def test_a_file_that_is_no_json_object_is_named(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    make_bundle(tmp_path, FIRST)
    if name == "manifest.json":
        (tmp_path / FIRST / name).write_bytes(content)
    else:
        sealed(tmp_path, name, content)
    assert refusal(tmp_path) == f"{name} {told}"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": "two"}, f"Model bundle {FIRST} has another format, this program reads 2."),
        ({"format": None}, f"Model bundle {FIRST} has format None, this program reads 2."),
        (
            {"sha256": []},
            "manifest.json does not have this program's format (sha256: Input should be a valid dictionary).",
        ),
        (
            {"sha256": {"../x": "0" * 64}},
            "manifest.json does not have this program's format (sha256.../x.[key]: String should match",
        ),
        (
            {"sha256": {"model.json": 7}},
            "manifest.json does not have this program's format (sha256.model.json: Input should be",
        ),
        ({"trained_at": "yesterday"}, "manifest.json does not have this program's format (trained_at: Input should be"),
        (
            {"learned_until": "2026-06-01T10:00:00"},
            "manifest.json does not have this program's format (learned_until: Input should",
        ),
        ({"learned_until": None}, "manifest.json does not have this program's format (learned_until: Input should"),
    ],
)
def test_a_manifest_that_lacks_what_it_needs_is_named(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    make_bundle(tmp_path, FIRST)
    path = tmp_path / FIRST / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert refusal(tmp_path).startswith(told)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("calibration.json", b'{"kind": "magic"}', "kind: Input should be 'none', 'platt' or 'isotonic'"),
        ("calibration.json", b'{"kind": "platt", "slope": NaN}', "slope: Input should be a finite number"),
        (
            "calibration.json",
            b'{"kind": "isotonic", "raw": [0.5], "true": [0.5]}',
            "raw and true must have the same length",
        ),
        ("metrics.json", b'{"auc": "good"}', "auc: Input should be a valid number"),
        ("contract.json", b'{"version": 1, "features": []}', "features: Tuple should have at least 1 item"),
    ],
)
def test_contents_that_are_another_programs_are_named(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    make_bundle(tmp_path, FIRST)
    sealed(tmp_path, name, content)
    found = refusal(tmp_path)
    assert found.startswith(f"{name} does not have this program's format ({told}")
    assert found.endswith(DEPLOY)


@pytest.mark.parametrize("content", [b"", b"garbage", b"[]", b"{}", b'{"learner": {}}', b'{"learner": ', b"\xff" * 50])
def test_a_model_that_xgboost_cannot_read_is_named(tmp_path: Path, content: bytes) -> None:
    make_bundle(tmp_path, FIRST)
    sealed(tmp_path, "model.json", content)
    model = Model(load_bundle(tmp_path, FIRST))
    with pytest.raises(ContractError, match=rf"{FIRST}: model\.json cannot be used \(.*{REMEDY}"):
        model.predict(np.zeros((1, 1), dtype=np.float32))


def test_the_reference_of_a_damaged_bundle_is_named(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, FIRST)
    (tmp_path / FIRST / "reference.json").write_text('{"features": 7}')
    with pytest.raises(ContractError, match=r"reference\.json does not have this program's format \(features: "):
        last_reference(bundle)


# Pointers and registries


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"one\ntwo", b"../elsewhere", b"\x00", b"a b"])
def test_a_pointer_that_names_no_version_is_refused(tmp_path: Path, content: bytes) -> None:
    make_bundle(tmp_path, FIRST)
    (tmp_path / CHAMPION).write_bytes(content)
    settings = Settings(models=tmp_path, registry="none")
    with pytest.raises(
        ContractError, match=r"The file champion in .*/ does not name a model version\. Delete it, or write"
    ):
        choose(settings)
    assert "does not name a model version" in str(aliases(settings).problem)
    (tmp_path / CHAMPION).unlink()
    assert promote(settings, FIRST).champion == FIRST
    assert choose(settings).bundle.version == FIRST


def test_a_pointer_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / CHAMPION).mkdir()
    with pytest.raises(ContractError, match="does not name a model version"):
        choose(Settings(models=tmp_path, registry="none"))


def test_a_byte_order_mark_before_a_version_is_passed_over(tmp_path: Path) -> None:
    make_bundle(tmp_path, SECOND)
    (tmp_path / CHAMPION).write_text(f"\ufeff{SECOND}\r\n")
    assert choose(Settings(models=tmp_path, registry="none")).bundle.version == SECOND


def test_a_registry_file_that_is_no_database_is_named_and_a_retry_is_not_advised(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"garbage" * 100)
    with pytest.raises(WinbackError) as caught:
        choose(Settings(models=tmp_path))
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(
        "The model registry in registry.db gave no usable reply (the file is not a database). Restore it, or set "
        "WINBACK_REGISTRY to another registry."
    )


def test_an_hour_uses_the_bundle_on_disk_where_the_registry_file_is_damaged(tmp_path: Path) -> None:
    make_bundle(tmp_path, FIRST)
    (tmp_path / CHAMPION).write_text(FIRST)
    (tmp_path / "registry.db").write_bytes(b"garbage" * 100)
    chosen = choose(Settings(models=tmp_path))
    assert chosen.bundle.version == FIRST
    assert "(the file is not a database)" in str(chosen.fallback)


def test_a_verdict_that_is_not_text_is_told_and_not_believed(tmp_path: Path) -> None:
    for version in (FIRST, SECOND):
        make_bundle(tmp_path, version)
    registry = connect("none", tmp_path)
    registry.point(CHAMPION, FIRST)
    registry.attach(SECOND, "verdict.json", "{}")
    (tmp_path / "attached" / SECOND / "verdict.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ContractError, match=f"The verdict on {SECOND} cannot be read"):
        promote(Settings(models=tmp_path, registry="none"), SECOND)
