"""Reads the feature contract from `config/features.yml`, with stricter rules than for the one that ships with a model.

Its phrases go to the CRM, whose templates and pages would interpret markup in them. A bundle may be older than a rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from core.config_file import read_yaml
from core.names import unfit
from scoring.features import Feature, FeatureContract
from scoring.shared_values import OTHER

_LONGEST_PHRASE: Final = 120  # a CRM property holds up to three of them
_MARKUP: Final = frozenset("<>$`|\\")
_LEARNED: Final = ("categories", "rest", "median")
_PHRASES: Final = ("low", "high", "reason")


class _Declared(FeatureContract):
    """The contract with the rules for people's input."""

    @model_validator(mode="after")
    def _holds_words(self) -> _Declared:
        for place, feature in enumerate(self.features):
            for key, why in _faults(feature):
                at = ("features", place, *key)
                raise PydanticCustomError(
                    "declared", "feature {name}: {why}", {"name": feature.name, "why": why, "at": at}
                )
        return self


def load_contract(path: Path) -> FeatureContract:
    """Read the declared contract.

    Raises: ContractError with the file, the line and the mistake.
    """
    declared = read_yaml(path, _Declared, "feature contract")
    return FeatureContract(version=declared.version, features=declared.features)


def _faults(feature: Feature) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the place of each mistake within a feature, and its description."""
    if why := unfit(feature.name):
        yield ("name",), f"its name {why}"
    for key in _LEARNED:
        if key in feature.model_fields_set:
            yield (key,), f"{key} is set by training. Remove it."
    for key in _PHRASES:
        phrase = getattr(feature, key)
        if phrase is not None and (why := _unfit_phrase(phrase, takes_value=key == "reason")):
            yield (key,), why
    if "levels" in feature.model_fields_set and not feature.levels:
        yield ("levels",), "no level is allowed. Name some, or remove levels."
    for index, level in enumerate(feature.levels):
        if why := unfit(level):
            yield ("levels", index), f"a level {why}"
        elif level == OTHER:
            yield ("levels", index), f"{OTHER} stands for all other levels. Remove it."
        elif level in feature.levels[:index]:
            yield ("levels", index), "a level is given twice. Keep one."


def _unfit_phrase(phrase: str, *, takes_value: bool) -> str | None:
    """Return why a phrase must not reach the CRM; None if it may."""
    words = phrase.replace("{value}", "", 1) if takes_value else phrase
    if ";" in words:
        return "a phrase holds a semicolon, which separates reasons. Use a comma."
    if "{" in words or "}" in words:
        return "a reason may contain {value} once; no phrase may contain other braces."
    if not phrase.strip() or len(phrase) > _LONGEST_PHRASE:
        return f"a phrase must have between 1 and {_LONGEST_PHRASE} characters."
    if not words.isprintable() or set(words) & _MARKUP:
        return "a phrase must be one line of plain words, without any of " + " ".join(sorted(_MARKUP)) + "."
    return None
