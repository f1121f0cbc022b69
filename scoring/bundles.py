"""Where does a trained model live, and is it the one that was written?

A bundle is a folder: `model.json` (native XGBoost JSON, never a pickle), `contract.json`, `calibration.json`, `metrics.json`,
`card.md`, plots, and `manifest.json` with the sha256 of each.
A file named `champion` beside the bundles holds the version that the job used last, and
where there is no registry the one it uses: scoring/registry.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scoring.calibration import Calibration
from scoring.contract import CONTRACT_VERSION, FeatureContract
from warehouse.errors import ContractError

FORMAT = 2
_NEEDED = ("model.json", "contract.json", "calibration.json", "metrics.json")
CHAMPION = "champion"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `learned_until`: the latest exit it learned from in any way, UTC; later ones can judge it."""

    version: str
    folder: Path
    contract: FeatureContract
    calibration: Calibration
    trained_at: datetime
    learned_until: datetime
    metrics: dict[str, float]

    @property
    def model_path(self) -> Path:
        """The model in XGBoost's JSON."""
        return self.folder / "model.json"


def seal(folder: Path, *, version: str, trained_at: datetime, learned_until: datetime) -> None:
    """Write the manifest, last: a folder without one is no bundle."""
    files = {p.name: _sha256(p) for p in sorted(folder.iterdir()) if p.name != "manifest.json"}
    manifest = {
        "format": FORMAT,
        "version": version,
        "trained_at": trained_at.isoformat(),
        "learned_until": learned_until.isoformat(),
        "sha256": files,
    }
    replace_text(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def load_bundle(models: Path, version: str) -> Bundle:
    """Read a bundle and verify every file.

    Raises: ContractError when it is absent, incomplete, altered, or of another format.
    """
    folder = models / version
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        known = ", ".join(versions(models)) or "none"
        raise ContractError(f"There is no complete model bundle {version}. There are: {known}.") from None
    if manifest.get("format") != FORMAT:
        raise ContractError(
            f"Model bundle {version} has format {manifest.get('format')}, this program reads {FORMAT}. "
            "Deploy the program that wrote it, or train again."
        )
    sealed: dict[str, str] = dict.fromkeys(_NEEDED, "") | manifest["sha256"]
    for name, expected in sealed.items():
        path = folder / name
        if not path.is_file() or _sha256(path) != expected:
            raise ContractError(
                f"Model bundle {version}: {name} is missing or was altered (sha256 differs). "
                "Restore it, or promote another version: winback promote VERSION"
            )
    texts = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("contract", "calibration", "metrics")}
    return Bundle(
        version=version,
        folder=folder,
        contract=_contract(texts["contract"], version),
        calibration=Calibration.model_validate(texts["calibration"]),
        trained_at=datetime.fromisoformat(manifest["trained_at"]),
        learned_until=datetime.fromisoformat(manifest["learned_until"]),
        metrics=texts["metrics"],
    )


def _contract(told: dict[str, Any], version: str) -> FeatureContract:
    if told.get("version") != CONTRACT_VERSION:
        raise ContractError(
            f"Model bundle {version} keeps feature contract {told.get('version')}, this program reads {CONTRACT_VERSION}. "
            "Deploy the program that wrote it, or promote another version: winback promote VERSION"
        )
    try:
        return FeatureContract.model_validate(told)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ContractError(
            f"Model bundle {version}: contract.json is none of this program's ({place}: {problem['msg']}). "
            "Deploy the program that wrote it, or promote another version: winback promote VERSION"
        ) from None


def versions(models: Path) -> list[str]:
    """Every complete bundle, oldest first (versions begin with their time).

    A folder whose name begins with a dot is one that training was still writing when it was stopped.
    """
    return sorted(p.parent.name for p in models.glob("*/manifest.json") if not p.parent.name.startswith("."))


def pointed(models: Path, name: str) -> str | None:
    """The version that a pointer beside the bundles names, or None."""
    pointer = models / name
    return pointer.read_text().strip() or None if pointer.is_file() else None


def point(models: Path, name: str, version: str | None) -> None:
    """Have a pointer name a version; None takes it away. Nothing is verified."""
    if version is None:
        (models / name).unlink(missing_ok=True)
    else:
        models.mkdir(parents=True, exist_ok=True)
        replace_text(models / name, version + "\n")


def champion(models: Path) -> str | None:
    """The version that was verified and used last on this disk, or None before the first run."""
    return pointed(models, CHAMPION)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
