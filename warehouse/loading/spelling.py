"""Detects misspelt column names. Only typing errors count: event_date is not a misspelling of event_id."""

from __future__ import annotations

import re
from collections.abc import Iterable

LONG_WORD = 8  # letters; a word this long may have two typing errors, a shorter one has one, up to three letters none
SHORT_WORD = 3


def misspellings(names: Iterable[str], candidates: Iterable[str]) -> dict[str, str]:
    """Return the misspelling of each name among the candidates, the nearest first. Each candidate is used once."""
    places = {candidate: place for place, candidate in enumerate(candidates)}
    distances = {
        (name, candidate): distance
        for name in names
        for candidate in places
        if (distance := _slips(name, candidate)) is not None
    }
    found: dict[str, str] = {}
    for name, candidate in sorted(distances, key=lambda pair: (distances[pair], places[pair[1]])):
        if name not in found and candidate not in found.values():
            found[name] = candidate
    return found


def _slips(name: str, other: str) -> int | None:
    """Count the typing errors between two names; None if the names are unrelated."""
    words, others = _words(name), _words(other)
    whole, other_whole = "".join(words), "".join(others)
    if whole == other_whole:
        return 0
    if len(words) == len(others):
        distances = [_distance(*pair) for pair in zip(words, others, strict=True)]
        allowed = [0 if len(word) <= SHORT_WORD else 1 if len(word) < LONG_WORD else 2 for word in words]
        near = all(distance <= most for distance, most in zip(distances, allowed, strict=True))
        return sum(distances) if near and sum(distances) <= 2 else None
    return 1 if len(whole) >= LONG_WORD - 1 and _distance(whole, other_whole) == 1 else None


def _words(name: str) -> list[str]:
    """Split a name at separators and at capitals: `eventID`, `Event Id` and `event_id` have the same words."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return [word.lower() for word in re.split(r"[\W_]+", parted) if word]


def _distance(a: str, b: str) -> int:
    """Optimal string alignment distance: letters left out, added, replaced, or swapped with the next one."""
    if abs(len(a) - len(b)) > 2:
        return 3
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, last, row = row, before, [i]
        for j, other in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
