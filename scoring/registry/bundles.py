"""Bundles of trained models on disk, verified against their manifests.

A bundle is a folder: `model.json` (native XGBoost JSON, never a pickle), `contract.json`, `calibration.json`, `metrics.json`,
`card.md`, plots, and `manifest.json` with the sha256 of each.
The file `champion` beside the bundles holds the version that the job used last. Without a registry, it also decides which
version the job uses: see scoring/registry/folder.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from core.errors import ContractError
from scoring.calibration import Calibration
from scoring.features import CONTRACT_VERSION, FeatureContract
from scoring.registry.bundle_files import Manifest, Metrics, checked, read_object, read_pointer

FORMAT = 2
_NEEDED = ("model.json", "contract.json", "calibration.json", "metrics.json")
CHAMPION = "champion"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `learned_until` is the latest exit of its training, UTC; later exits can measure it."""

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


def write_manifest(folder: Path, *, version: str, trained_at: datetime, learned_until: datetime) -> None:
    """Write the manifest, as the last file: a folder without one is not a bundle."""
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

    Raises: ContractError when it is absent, incomplete, altered, or has another format.
    """
    folder = models / version
    try:
        found = read_object(folder / "manifest.json", version)
    except OSError:
        known = ", ".join(versions(models)) or "none"
        raise ContractError(f"A complete model bundle {version} does not exist. Available: {known}.") from None
    if found.get("format") != FORMAT:
        raise ContractError(
            f"Model bundle {version} has {_shown('format', found.get('format'))}, this program reads {FORMAT}. "
            "Deploy the program that wrote it, or train again."
        )
    manifest = checked(Manifest, found, version, "manifest.json")
    sealed: dict[str, str] = dict.fromkeys(_NEEDED, "") | manifest.sha256
    for name, expected in sealed.items():
        path = folder / name
        if not path.is_file() or _sha256(path) != expected:
            raise ContractError(
                f"Model bundle {version}: {name} is missing or was altered (sha256 differs). "
                "Restore it, or promote another version: winback promote VERSION"
            )
    contract, calibration, metrics = (read_object(folder / name, version) for name in _NEEDED[1:])
    if contract.get("version") != CONTRACT_VERSION:
        raise ContractError(
            f"Model bundle {version} has {_shown('feature contract', contract.get('version'))}, this program reads "
            f"{CONTRACT_VERSION}. Deploy the program that wrote it, or promote another version: winback promote VERSION"
        )
    return Bundle(
        version=version,
        folder=folder,
        contract=checked(FeatureContract, contract, version, "contract.json"),
        calibration=checked(Calibration, calibration, version, "calibration.json"),
        trained_at=manifest.trained_at,
        learned_until=manifest.learned_until,
        metrics=checked(Metrics, metrics, version, "metrics.json").root,
    )


def _shown(what: str, value: object) -> str:
    """Describe a version of another program. No other text of a file is repeated in messages."""
    return f"{what} {value}" if value is None or isinstance(value, int) else f"another {what}"


def versions(models: Path) -> list[str]:
    """Every complete bundle, oldest first (versions begin with their time).

    A folder whose name begins with a dot is an unfinished bundle of an interrupted training.
    """
    return sorted(p.parent.name for p in models.glob("*/manifest.json") if not p.parent.name.startswith("."))


def pointed(models: Path, name: str) -> str | None:
    """Return the version that a pointer beside the bundles names, or None.

    Raises: ContractError when it does not name a version.
    """
    return read_pointer(models / name)


def point(models: Path, name: str, version: str | None) -> None:
    """Set the version that a pointer names; None deletes the pointer. Nothing is verified."""
    if version is None:
        (models / name).unlink(missing_ok=True)
    else:
        models.mkdir(parents=True, exist_ok=True)
        replace_text(models / name, version + "\n")


def champion(models: Path) -> str | None:
    """Return the version that was last verified and used on this disk, or None before the first run."""
    return pointed(models, CHAMPION)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_text(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the old text or the new, never a part of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
