"""Commands that work in an open job context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.settings import Settings
from jobs.context import open_context


def with_context(act: Callable[[Any], Any]) -> Callable[[Settings, Any], Any]:
    """Wrap `act` so that it gets an open job context, which is closed afterwards."""

    def run(settings: Settings, reporter: Any) -> Any:
        with open_context(settings, reporter=reporter) as context:
            return act(context)

    return run
