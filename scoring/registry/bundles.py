"""Bundles of trained models on disk, verified against their manifests.

A bundle is a folder: `model.json` (native XGBoost JSON, never a pickle), `contract.json`, `calibration.json`, `metrics.json`,
`card.md`, plots, and `manifest.json` with the sha256 of each.
A file named `champion` beside the bundles holds the version that the job used last, and
where there is no registry the one it uses: scoring/registry/folder.py.
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


def write_manifest(folder: Path, *, version: str, trained_at: datetime, learned_until: datetime) -> None:
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
        found = read_object(folder / "manifest.json", version)
    except OSError:
        known = ", ".join(versions(models)) or "none"
        raise ContractError(f"There is no complete model bundle {version}. There are: {known}.") from None
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
            f"Model bundle {version} keeps {_shown('feature contract', contract.get('version'))}, this program reads "
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
    """Name a version that is not this program's; nothing else of a file is repeated."""
    return f"{what} {value}" if value is None or isinstance(value, int) else f"another {what}"


def versions(models: Path) -> list[str]:
    """Every complete bundle, oldest first (versions begin with their time).

    A folder whose name begins with a dot is one that training was still writing when it was stopped.
    """
    return sorted(p.parent.name for p in models.glob("*/manifest.json") if not p.parent.name.startswith("."))


def pointed(models: Path, name: str) -> str | None:
    """The version that a pointer beside the bundles names, or None.

    Raises: ContractError where it names none.
    """
    return read_pointer(models / name)


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
