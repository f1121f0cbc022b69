"""Promotion: a version comes into use only for a reason, and the previous one stays available."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ContractError, NothingToPromoteError, WinbackError
from core.settings import Settings
from jobs.models.lifecycle import Aliases, Promoted, aliases, choose, promote, register_trained, rollback
from scoring.registry import bundles
from scoring.registry.folder import ALIASES, Registry, connect
from tests.support.builders.registry import FIRST, SECOND, make_bundle, verdict
from tests.support.environment import settings_in

THIRD = "20260615T100000Z-00000003"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def registry(settings: Settings) -> Registry:
    """A registry in which two versions were trained, one after the other."""
    registry = connect("none", settings.models)
    assert [trained(settings, version) for version in (FIRST, SECOND)] == ["champion", "challenger"]
    return registry


def trained(settings: Settings, version: str) -> str:
    make_bundle(settings.models, version)
    return register_trained(settings, version)


def standing(registry: Registry) -> list[str | None]:
    """Return champion, challenger and previous champion."""
    return [registry.resolve(alias) for alias in ALIASES]


def test_the_first_version_is_the_champion_and_the_next_one_a_challenger(registry: Registry) -> None:
    assert standing(registry) == [FIRST, SECOND, None]


def test_training_the_champion_again_makes_no_challenger_of_it(settings: Settings, registry: Registry) -> None:
    assert register_trained(settings, FIRST) == "champion"
    assert standing(registry) == [FIRST, SECOND, None]


def test_a_better_challenger_is_promoted_and_promoting_again_finds_none(settings: Settings, registry: Registry) -> None:
    registry.attach(SECOND, "verdict.json", verdict(FIRST, SECOND))

    assert promote(settings) == Promoted(SECOND, FIRST)
    assert standing(registry) == [SECOND, None, FIRST]
    assert choose(settings).bundle.version == SECOND
    with pytest.raises(NothingToPromoteError, match="No challenger exists"):
        promote(settings)


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        (None, ContractError, f"{SECOND} has no verdict against the champion {FIRST}. Evaluate it (winback evaluate)"),
        ("{", ContractError, "cannot be read"),
        ("[]", ContractError, "cannot be read"),
        (verdict(FIRST, SECOND, is_better="yes"), ContractError, "cannot be read"),
        (verdict(FIRST, SECOND, is_better=1), ContractError, "cannot be read"),
        ('{"is_better": true}', ContractError, f"does not compare it with the present champion {FIRST}"),
        (verdict(THIRD, SECOND), ContractError, f"does not compare it with the present champion {FIRST}"),
        (verdict(FIRST, THIRD), ContractError, f"does not compare it with the present champion {FIRST}"),
        (verdict(THIRD, SECOND, is_better=False), ContractError, "does not compare it"),
        (verdict(FIRST, SECOND, is_better=False), NothingToPromoteError, f"not better than the champion {FIRST}"),
    ],
)
def test_without_a_verdict_that_says_better_the_champion_stays_unless_it_is_forced(
    settings: Settings, registry: Registry, text: str | None, error: type[WinbackError], told: str
) -> None:
    if text is not None:
        registry.attach(SECOND, "verdict.json", text)

    with pytest.raises(error) as refused:
        promote(settings)
    assert told in str(refused.value)
    assert f"winback promote {SECOND} --force" in str(refused.value)
    assert standing(registry) == [FIRST, SECOND, None]

    assert promote(settings, force=True) == Promoted(SECOND, FIRST)


def test_nothing_to_promote_has_an_exit_code_of_its_own() -> None:
    assert (NothingToPromoteError.exit_code, ContractError.exit_code) == (4, 2)


def test_a_first_champion_needs_no_verdict(settings: Settings) -> None:
    make_bundle(settings.models, FIRST)
    with pytest.raises(ContractError, match=f"winback promote VERSION. On disk are: {FIRST}"):
        choose(settings)

    assert promote(settings, FIRST) == Promoted(FIRST, None)
    assert choose(settings).bundle.version == FIRST


def test_a_verdict_against_the_champion_of_then_does_not_count_against_the_one_of_now(
    settings: Settings, registry: Registry
) -> None:
    registry.attach(SECOND, "verdict.json", verdict(FIRST, SECOND))
    trained(settings, THIRD)
    promote(settings, THIRD, force=True)

    with pytest.raises(ContractError, match="does not compare it"):
        promote(settings, SECOND)
    assert standing(registry) == [THIRD, None, FIRST]


def test_a_rollback_brings_the_previous_champion_back_once(settings: Settings, registry: Registry) -> None:
    with pytest.raises(ContractError, match="No previous champion exists"):
        rollback(settings)
    promote(settings, force=True)

    assert rollback(settings) == Promoted(FIRST, SECOND)
    assert standing(registry) == [FIRST, None, None]
    assert choose(settings).bundle.version == FIRST
    with pytest.raises(ContractError, match="No previous champion exists"):
        rollback(settings)


class Stops:
    """A registry whose process is killed before its nth alias is written."""

    def __init__(self, registry: Registry, writes: int) -> None:
        self._registry, self._left = registry, writes

    def point(self, alias: str, version: str | None) -> None:
        if not self._left:
            raise KeyboardInterrupt
        self._left -= 1
        self._registry.point(alias, version)

    def __getattr__(self, name: str) -> object:
        return getattr(self._registry, name)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_promotion_killed_anywhere_leaves_a_champion_and_is_done_by_the_next_attempt(
    settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    monkeypatch.setattr("jobs.models.lifecycle.open_registry", lambda _: Stops(registry, writes))
    with pytest.raises(KeyboardInterrupt):
        promote(settings, force=True)
    monkeypatch.undo()
    assert choose(settings).bundle.version == (FIRST if writes < 2 else SECOND)

    assert promote(settings, force=True) == Promoted(SECOND, FIRST)
    assert standing(registry) == [SECOND, None, FIRST]


@pytest.mark.parametrize("writes", [0, 1])
def test_a_rollback_killed_anywhere_leaves_a_champion_and_is_done_by_the_next_attempt(
    settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    promote(settings, force=True)
    monkeypatch.setattr("jobs.models.lifecycle.open_registry", lambda _: Stops(registry, writes))
    with pytest.raises(KeyboardInterrupt):
        rollback(settings)
    monkeypatch.undo()
    assert choose(settings).bundle.version == (SECOND if writes == 0 else FIRST)

    assert rollback(settings).champion == FIRST
    assert standing(registry) == [FIRST, None, None]


def test_an_altered_bundle_is_promoted_neither_by_force_nor_by_rollback(settings: Settings, registry: Registry) -> None:
    (settings.models / SECOND / "model.json").write_text("{} ")
    with pytest.raises(ContractError, match="altered"):
        promote(settings, force=True)
    assert standing(registry) == [FIRST, SECOND, None]


def test_a_bundle_from_before_there_was_a_registry_is_registered_by_promoting_it(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, registry="")
    make_bundle(settings.models, FIRST)
    bundles.point(settings.models, "champion", FIRST)
    with pytest.raises(ContractError, match="No champion exists"):
        choose(settings)

    promote(settings, FIRST)

    assert choose(settings).bundle.version == FIRST
    assert aliases(settings) == Aliases("embedded", FIRST, None, None, on_disk=FIRST)
    assert (settings.models / "registry.db").is_file()
