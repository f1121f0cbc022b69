"""A challenger for a test's world."""

from __future__ import annotations

import shutil
from pathlib import Path

from scoring.calibration import Calibration
from scoring.registry import bundles
from scoring.registry.folder import CHALLENGER
from tests.support.environment import HISTORY_UNTIL, World

VERSION = "20260601T000000Z-000000c2"


def challenge(world: World) -> Path:
    """Register a copy of the champion with about half of its probabilities as challenger; returns its folder."""
    models = world.folder / "models"
    champion = bundles.champion(models)
    assert champion
    folder = models / VERSION
    shutil.copytree(models / champion, folder)
    (folder / "calibration.json").write_text(Calibration(kind="platt", slope=0.5).model_dump_json())
    write_manifest(folder)
    bundles.point(models, CHALLENGER, VERSION)
    return folder


def write_manifest(folder: Path) -> None:
    """Seal the bundle again after a change."""
    bundles.write_manifest(folder, version=VERSION, trained_at=HISTORY_UNTIL, learned_until=HISTORY_UNTIL)
