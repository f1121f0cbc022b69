"""Writes a bundle into a hidden folder, then renames it, so that a crash leaves no partial bundle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from datetime import datetime
from pathlib import Path

from scoring.calibration import Calibration
from scoring.registry.bundles import load_bundle, write_manifest
from training.evaluation.psi import Reference
from training.model_card.card import Report, as_markdown
from training.model_card.html import as_html
from training.model_card.plots import Curves, draw


def write_bundle(
    models: Path,
    model: bytes,
    calibration: Calibration,
    report: Report,
    curves: Curves,
    *,
    reference: Reference,
    until: datetime,
    learned_until: datetime,
) -> str:
    """Write and seal `models`/version, and return the version: `until`, and 8 digits of the sha256 of model and map.

    The examples were known up to `until` (UTC). A retry with the same `until` finds the existing bundle, verifies and keeps it.
    `learned_until` is the latest exit learned from.

    Raises: ContractError when the existing bundle was altered.
    """
    mended = calibration.model_dump_json(indent=2).encode()
    version = f"{until:%Y%m%dT%H%M%SZ}-{hashlib.sha256(model + mended).hexdigest()[:8]}"
    folder = models / version
    if folder.exists():
        load_bundle(models, version)
        return version
    partial = models / f".{version}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pictures = draw(curves)
    (partial / "model.json").write_bytes(model)
    (partial / "calibration.json").write_bytes(mended)
    for name, picture in pictures.items():
        (partial / name).write_bytes(picture)
    texts = {
        "contract.json": report.contract.model_dump_json(indent=2) + "\n",
        "metrics.json": json.dumps(report.metrics, indent=2) + "\n",
        "reference.json": reference.model_dump_json() + "\n",
        "card.md": as_markdown(report, version, pictures),
        "card.html": as_html(report, version, pictures),
    }
    for name, text in texts.items():
        (partial / name).write_text(text, encoding="utf-8")
    write_manifest(partial, version=version, trained_at=report.trained_at, learned_until=learned_until)
    os.replace(partial, folder)
    return version
