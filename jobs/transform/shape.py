"""The keys of config/funnel.yml that shape the tables: kept with each epoch, and compared before anything is built.

Tables grow window by window. A key that changed in between would mix two definitions in one table, and nothing would show it.
"""

from __future__ import annotations

import json
from typing import Any

from core.errors import ContractError
from jobs.transform.funnel import Funnel

# These say which exits a model learns from and when their outcome counts: the examples are built anew each time.
_ONLY_EXAMPLES = {"label_window_days", "training_history_days"}
# The order of steps is their meaning; that of other lists means nothing.
_IN_ORDER = {"steps"}


def shape_of(funnel: Funnel) -> dict[str, Any]:
    """The keys that shape the tables, and their values. A key shapes them unless it is known not to."""
    values = funnel.model_dump(mode="json")
    return {key: _plain(key, value) for key, value in sorted(values.items()) if key not in _ONLY_EXAMPLES}


def written(funnel: Funnel) -> str:
    """The shape as an epoch keeps it."""
    return json.dumps(shape_of(funnel), sort_keys=True, ensure_ascii=False)


def refuse_changed(kept: str | None, funnel: Funnel) -> None:
    """Refuse to build upon tables that another funnel.yml shaped. A warehouse made before shapes were kept has none yet.

    Raises: ContractError that names the keys that changed.
    """
    if changes := changed(kept, funnel):
        raise ContractError(
            f"funnel.yml has changed since the tables were built: {'; '.join(changes)}. Nothing was built, decided or sent. "
            "Change it back; or begin a new warehouse with it: docs/dbt.md, Change the inactivity gap"
        )


def changed(kept: str | None, funnel: Funnel) -> list[str]:
    """A line for each key whose value is not the one that the tables were built with. A key that came later is not compared."""
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
    """A key before and now; of a mapping each name in it."""
    if isinstance(was, dict) and isinstance(is_now, dict):
        return {f"{key}.{name}": (was.get(name, []), is_now.get(name, [])) for name in sorted({*was, *is_now})}
    return {key: (was, is_now)}


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, list) and key not in _IN_ORDER:
        return sorted(set(value))
    if isinstance(value, dict):
        # A kind without events is as one that is not named.
        return {name: _plain(name, events) for name, events in sorted(value.items()) if events}
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
