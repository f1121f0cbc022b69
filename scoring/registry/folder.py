"""Model registry in a folder, and the interface of all registries.

A registry names bundles by aliases: `champion` is what the job uses, `challenger` what was trained last, `previous_champion` the
way back. Beside the registry stand the bundles on disk; the file `champion` among them holds the last version that was verified
there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from core.errors import ContractError, RetryableError
from scoring.registry import bundles
from scoring.registry.bundle_files import NAME
from scoring.registry.bundles import Bundle

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous_champion"
ALIASES: Final = (CHAMPION, CHALLENGER, PREVIOUS)
NONE: Final = "none"


class RegistryUnreachableError(RetryableError):
    """The registry did not answer, or not with what can be used."""


class RegistryDamagedError(RegistryUnreachableError):
    """The registry's file is none: to try again fails the same way."""

    exit_code = 2


class Registry(Protocol):
    """Where model versions are kept. `version` is a bundle's everywhere. What cannot be asked raises RegistryUnreachableError."""

    def resolve(self, alias: str) -> str | None:
        """Return the version that an alias stands for, or None where it stands for none."""

    def fetch(self, version: str, models: Path) -> Bundle:
        """Return the verified bundle: from `models` where it is there and whole, else downloaded into it.

        Raises: ContractError where there is no such version, or what is kept of it is not what was registered.
        """

    def register(self, bundle: Bundle) -> None:
        """Keep a bundle; once more changes nothing.

        Raises: ContractError where another bundle is kept under its version.
        """

    def point(self, alias: str, version: str | None) -> None:
        """Have an alias stand for a registered version; None takes it away."""

    def attach(self, version: str, name: str, text: str) -> None:
        """Keep a text, such as `verdict.json`, with a version, in place of the one of that name."""

    def attached(self, version: str, name: str) -> str | None:
        """Return the text that was attached under the name, or None."""


def connect(uri: str, models: Path) -> Registry:
    """Return the registry at `uri`: `none`, `sqlite:///path` or a tracking server's `http(s)://...`. Nothing is asked yet.

    Raises: ContractError where its library is not installed.
    """
    if uri == NONE:
        return FolderRegistry(models)
    from scoring.registry.mlflow import MlflowRegistry  # noqa: PLC0415 - a second that a folder need not pay

    return MlflowRegistry(uri, models)


def checked_name(name: str) -> str:
    """Return a version or a file's name if it is nothing but that.

    Raises: ContractError.
    """
    if not NAME.fullmatch(name):
        raise ContractError(
            "A model version or what is attached to one has a name with other characters than letters, digits, "
            "dots, hyphens and underscores."
        )
    return name


def whole(models: Path, version: str) -> Bundle | None:
    """Return a bundle that is on disk with every file as it was sealed, or None."""
    try:
        return bundles.load_bundle(models, version)
    except (ContractError, ValueError):
        return None


class FolderRegistry:
    """No registry: the folder of the bundles, a file for each alias, and what was attached in a folder of its own."""

    def __init__(self, models: Path) -> None:
        self._models = models

    def resolve(self, alias: str) -> str | None:
        """Read the alias's file."""
        return bundles.pointed(self._models, alias)

    def fetch(self, version: str, models: Path) -> Bundle:
        """Load what is there."""
        return bundles.load_bundle(models, checked_name(version))

    def register(self, bundle: Bundle) -> None:
        """Verify that it is there; that is all that makes a version known."""
        bundles.load_bundle(self._models, bundle.version)

    def point(self, alias: str, version: str | None) -> None:
        """Write the alias's file, once the bundle is verified."""
        if version is not None:
            bundles.load_bundle(self._models, checked_name(version))
        bundles.point(self._models, alias, version)

    def attach(self, version: str, name: str, text: str) -> None:
        """Write the text outside the bundle, whose files are sealed."""
        bundles.load_bundle(self._models, checked_name(version))
        path = self._models / "attached" / version / checked_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        bundles.replace_text(path, text)

    def attached(self, version: str, name: str) -> str | None:
        """Read it."""
        path = self._models / "attached" / checked_name(version) / checked_name(name)
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
