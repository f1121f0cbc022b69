"""Check that the keys of config/funnel.yml that shape the tables have not changed since the tables were built.

Each epoch stores these keys. Tables grow window by window: a changed key would mix two definitions in one table unnoticed.
"""

from __future__ import annotations

import json
from typing import Any

from core.errors import ContractError
from jobs.transform.funnel import Funnel

# These define which exits become training examples, and their labels. The examples are rebuilt each time.
_ONLY_EXAMPLES = {"label_window_days", "training_history_days"}
# The order of the steps matters; the order of other lists does not.
_IN_ORDER = {"steps"}


def shape_of(funnel: Funnel) -> dict[str, Any]:
    """Return the keys that shape the tables, with their values: all keys except a few known ones."""
    values = funnel.model_dump(mode="json")
    return {key: _plain(key, value) for key, value in sorted(values.items()) if key not in _ONLY_EXAMPLES}


def written(funnel: Funnel) -> str:
    """Return the shape as JSON, as an epoch stores it."""
    return json.dumps(shape_of(funnel), sort_keys=True, ensure_ascii=False)


def refuse_changed(kept: str | None, funnel: Funnel) -> None:
    """Reject a build on tables that another funnel.yml shaped. An older warehouse has no stored shape and is accepted.

    Raises: ContractError that names the keys that changed.
    """
    if changes := changed(kept, funnel):
        raise ContractError(
            f"funnel.yml has changed since the tables were built: {'; '.join(changes)}. Nothing was built, decided or sent. "
            "Change it back, or start a new warehouse with it: docs/how-to/change-the-session-rules.md"
        )


def changed(kept: str | None, funnel: Funnel) -> list[str]:
    """Return a line for each key whose value has changed since the build. Keys of a later version are not compared."""
    if kept is None:
        return []
    before, now = json.loads(kept), shape_of(funnel)
    differing = [_parts(key, before[key], value) for key, value in now.items() if before.get(key, value) != value]
    return [
        f"{key} was {_short(was)} and is {_short(is_now)}"
        for parts in differing
        for key, (was, is_now) in parts.items()
        if was != is_now
    ]


def _parts(key: str, was: Any, is_now: Any) -> dict[str, tuple[Any, Any]]:
    """Return the old and the new value of a key, or of each name in a mapping."""
    if isinstance(was, dict) and isinstance(is_now, dict):
        return {f"{key}.{name}": (was.get(name, []), is_now.get(name, [])) for name in sorted({*was, *is_now})}
    return {key: (was, is_now)}


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, list) and key not in _IN_ORDER:
        return sorted(set(value))
    if isinstance(value, dict):
        # A kind without events is the same as a missing kind.
        return {name: _plain(name, events) for name, events in sorted(value.items()) if events}
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
