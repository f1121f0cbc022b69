"""Model registry in a folder, and the interface of all registries.

A registry names bundles by aliases. `champion` is the version that the job uses, `challenger` the last trained one,
`previous_champion` the one to return to. The bundles are stored on disk beside the registry. The file `champion` among them holds
the version last verified there.
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
    """The registry did not reply, or its reply cannot be used."""


class RegistryDamagedError(RegistryUnreachableError):
    """The registry's file is not a database: a retry would fail the same way."""

    exit_code = 2


class Registry(Protocol):
    """Stores model versions. `version` is always a bundle's version. If it cannot reply, it raises RegistryUnreachableError."""

    def resolve(self, alias: str) -> str | None:
        """Return the version of an alias, or None if it is not set."""

    def fetch(self, version: str, models: Path) -> Bundle:
        """Return the verified bundle: from `models` if it is there and complete, else downloaded into it.

        Raises: ContractError when the version does not exist, or the stored bundle is not the registered one.
        """

    def register(self, bundle: Bundle) -> None:
        """Store a bundle. Doing it twice changes nothing.

        Raises: ContractError when another bundle is stored under its version.
        """

    def point(self, alias: str, version: str | None) -> None:
        """Set an alias to a registered version; None deletes it."""

    def attach(self, version: str, name: str, text: str) -> None:
        """Store a text, such as `verdict.json`, with a version; it replaces an earlier one of that name."""

    def attached(self, version: str, name: str) -> str | None:
        """Return the text attached under the name, or None."""


def connect(uri: str, models: Path) -> Registry:
    """Return the registry at `uri`: `none`, `sqlite:///path` or a tracking server's `http(s)://...`. Sends no request yet.

    Raises: ContractError when its library is not installed.
    """
    if uri == NONE:
        return FolderRegistry(models)
    from scoring.registry.mlflow import MlflowRegistry  # noqa: PLC0415 - takes a second, which a folder does not need

    return MlflowRegistry(uri, models)


def checked_name(name: str) -> str:
    """Return a version or file name if it has only allowed characters.

    Raises: ContractError.
    """
    if not NAME.fullmatch(name):
        raise ContractError(
            "The name of a model version or attachment may only have letters, digits, dots, hyphens and underscores."
        )
    return name


def whole(models: Path, version: str) -> Bundle | None:
    """Return a bundle from disk if every file is unchanged, else None."""
    try:
        return bundles.load_bundle(models, version)
    except (ContractError, ValueError):
        return None


class FolderRegistry:
    """A registry without a server: the bundles' folder, a file for each alias, and a separate folder for attachments."""

    def __init__(self, models: Path) -> None:
        self._models = models

    def resolve(self, alias: str) -> str | None:
        """Return the content of the alias's file."""
        return bundles.pointed(self._models, alias)

    def fetch(self, version: str, models: Path) -> Bundle:
        """Load the bundle from disk."""
        return bundles.load_bundle(models, checked_name(version))

    def register(self, bundle: Bundle) -> None:
        """Verify that the bundle exists, which is enough to register it here."""
        bundles.load_bundle(self._models, bundle.version)

    def point(self, alias: str, version: str | None) -> None:
        """Write the alias's file, after verifying the bundle."""
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
        """Return the attached text, or None."""
        path = self._models / "attached" / checked_name(version) / checked_name(name)
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
