"""Choice of the champion for a run, and its replacement by training, promotion and rollback.

Aliases are written in this order: previous champion, champion, challenger. A crash in between leaves a valid state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import ContractError, NothingToPromoteError
from core.settings import Settings
from scoring.registry import bundles
from scoring.registry.bundles import Bundle
from scoring.registry.folder import CHALLENGER, CHAMPION, PREVIOUS, Registry, RegistryUnreachableError, connect

VERDICT = "verdict.json"


@dataclass(frozen=True)
class PinnedModel:
    """The bundle that a run uses. `fallback` is the reason why it is the last verified one on disk, if it is."""

    bundle: Bundle
    fallback: str | None = None


@dataclass(frozen=True)
class Promoted:
    """The new champion and the one before it."""

    champion: str
    before: str | None


@dataclass(frozen=True)
class Aliases:
    """Versions behind the registry's aliases. `problem`: why it is unreachable; `on_disk`: the version last used here."""

    registry: str
    champion: str | None
    challenger: str | None
    previous_champion: str | None
    on_disk: str | None
    problem: str | None = None


def open_registry(settings: Settings) -> Registry:
    """Return the registry that the settings name, without a request to it."""
    return connect(settings.registry_uri, settings.models)


def choose(settings: Settings) -> PinnedModel:
    """Resolve the champion once, fetch and verify its bundle, and record it as the last verified one on this disk.

    Raises: ContractError without a champion, or if its bundle differs from the registered one; RegistryUnreachableError if no
    bundle is on disk to fall back to.
    """
    registry = open_registry(settings)
    try:
        version = registry.resolve(CHAMPION)
        if version is None:
            raise ContractError(_no_champion(settings.models))
        bundle = registry.fetch(version, settings.models)
    except RegistryUnreachableError as error:
        last = bundles.champion(settings.models)
        if last is None:
            raise type(error)(f"{error} This disk has no verified bundle to fall back to.") from None
        return PinnedModel(
            bundles.load_bundle(settings.models, last), f"{error} Used the last verified bundle on disk."
        )
    _note(settings.models, version)
    return PinnedModel(bundle)


def aliases(settings: Settings) -> Aliases:
    """Read the aliases without changing anything; an unreachable registry is not an error."""
    shown = _shown(settings)
    try:
        on_disk = bundles.champion(settings.models)
    except ContractError as error:
        return Aliases(shown, None, None, None, None, str(error))
    try:
        registry = open_registry(settings)
        return Aliases(
            registry=shown,
            champion=registry.resolve(CHAMPION),
            challenger=registry.resolve(CHALLENGER),
            previous_champion=registry.resolve(PREVIOUS),
            on_disk=on_disk,
        )
    except (RegistryUnreachableError, ContractError) as error:
        return Aliases(shown, None, None, None, on_disk, str(error))


def register_trained(settings: Settings, version: str) -> str:
    """Register a trained bundle as the challenger, or as the champion if there is none; returns its alias."""
    registry = open_registry(settings)
    registry.register(bundles.load_bundle(settings.models, version))
    champion = registry.resolve(CHAMPION)
    if champion is None:
        registry.point(CHAMPION, version)
        _note(settings.models, version)
    elif champion != version:
        registry.point(CHALLENGER, version)
        return CHALLENGER
    return CHAMPION


def promote(settings: Settings, version: str | None = None, *, force: bool = False) -> Promoted:
    """Make the challenger, or `version`, the champion; the next run uses it.

    Raises: NothingToPromoteError without a challenger, or if the verdict is that it is not better; ContractError if there is no
    verdict against the present champion, or the bundle is incomplete; RegistryUnreachableError.
    """
    registry = open_registry(settings)
    champion, challenger = registry.resolve(CHAMPION), registry.resolve(CHALLENGER)
    version = version or challenger
    if version is None:
        raise NothingToPromoteError("No challenger exists. Train one (winback train), or name a version.")
    bundle = registry.fetch(version, settings.models)
    registry.register(bundle)
    before = champion
    if version != champion:
        if champion is not None and not force:
            _check_verdict(registry.attached(version, VERDICT), champion, version)
        if champion is not None:
            registry.point(PREVIOUS, champion)
        registry.point(CHAMPION, version)
    else:
        before = registry.resolve(PREVIOUS)
    if version == challenger:
        registry.point(CHALLENGER, None)
    _note(settings.models, version)
    return Promoted(version, before)


def rollback(settings: Settings) -> Promoted:
    """Make the previous champion the champion again; the next run uses it.

    Raises: ContractError if there is none, or its bundle is incomplete; RegistryUnreachableError.
    """
    registry = open_registry(settings)
    before, previous = registry.resolve(CHAMPION), registry.resolve(PREVIOUS)
    if previous is None:
        raise ContractError(
            "No previous champion exists to go back to. Promote a version: winback promote VERSION --force"
        )
    registry.fetch(previous, settings.models)
    registry.point(CHAMPION, previous)
    registry.point(PREVIOUS, None)
    _note(settings.models, previous)
    return Promoted(previous, before)


def _check_verdict(text: str | None, champion: str, version: str) -> None:
    """Raises: NothingToPromoteError if it is not better; ContractError without a verdict against this champion."""
    judge = f"Evaluate it (winback evaluate), or promote it without a verdict: winback promote {version} --force"
    if text is None:
        raise ContractError(f"{version} has no verdict against the champion {champion}. {judge}")
    try:
        verdict: Any = json.loads(text)
    except ValueError:
        verdict = None
    if not isinstance(verdict, dict) or not isinstance(verdict.get("is_better"), bool):
        raise ContractError(f"The verdict on {version} cannot be read. {judge}")
    if (verdict.get("champion"), verdict.get("challenger")) != (champion, version):
        raise ContractError(
            f"The verdict on {version} does not compare it with the present champion {champion}. {judge}"
        )
    if not verdict["is_better"]:
        raise NothingToPromoteError(
            f"{version} is not better than the champion {champion}: winback evaluate shows the numbers. "
            f"To use it anyway: winback promote {version} --force"
        )


def _note(models: Path, version: str) -> None:
    """Record the version as the last verified one.

    Raises: ContractError if the folder cannot be written to.
    """
    try:
        if bundles.champion(models) == version:
            return
    except ContractError:
        pass  # a damaged pointer is replaced
    try:
        bundles.point(models, bundles.CHAMPION, version)
    except OSError as error:
        raise ContractError(f"WINBACK_MODELS cannot be written to: {error.strerror}.") from None


def _no_champion(models: Path) -> str:
    known = bundles.versions(models)
    on_disk = f" On disk are: {', '.join(known)}." if known else ""
    return f"No champion exists. Train a model (winback train), or promote one: winback promote VERSION.{on_disk}"


def _shown(settings: Settings) -> str:
    uri = settings.registry_uri
    return "embedded" if uri.startswith("sqlite:") else uri
