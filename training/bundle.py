"""How does a crash leave no half bundle? It is written into a folder whose name begins with a dot, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from scoring.bundles import load_bundle, seal
from training.card import Report, as_markdown
from training.page import as_html
from training.plots import Curves, draw


def write_bundle(models: Path, model: bytes, report: Report, curves: Curves) -> str:
    """Write and seal `models`/version, and return the version: its time, and the first 8 digits of the model's sha256.

    A bundle that is there already, from the same examples at the same time, is verified and kept.

    Raises: ContractError when the one that is there was altered.
    """
    version = f"{report.trained_at:%Y%m%dT%H%M%SZ}-{hashlib.sha256(model).hexdigest()[:8]}"
    folder = models / version
    if folder.exists():
        load_bundle(models, version)
        return version
    partial = models / f".{version}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    plots = draw(curves)
    (partial / "model.json").write_bytes(model)
    (partial / "plots.png").write_bytes(plots)
    texts = {
        "contract.json": report.contract.model_dump_json(indent=2) + "\n",
        "metrics.json": json.dumps(report.metrics, indent=2) + "\n",
        "card.md": as_markdown(report, version),
        "card.html": as_html(report, version, plots),
    }
    for name, text in texts.items():
        (partial / name).write_text(text, encoding="utf-8")
    seal(partial, version=version, trained_at=report.trained_at)
    os.replace(partial, folder)
    return version
