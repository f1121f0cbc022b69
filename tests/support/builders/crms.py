"""A second CRM beside a world's own, and the switch to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from crm_sync.destinations.braze import Braze
from crm_sync.destinations.http.transport import RetryBudget
from jobs.crm_state.switch import SwitchedCrm, switch_crm
from sandbox.local_crm.server import LocalCrm
from tests.support.environment import API_KEY, NOW, World

OLD, NEW = "braze local", "braze rest.example.com"
CRMS = "select number, crm, state_from, kind from ops.crms order by number"


@contextmanager
def second_crm(world: World) -> Iterator[World]:
    """The same warehouse with another, empty CRM; give its context and its runs `crm=NEW`."""
    with LocalCrm(world.folder / "second.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        yield World(world.folder, crm, world.parsed)


def switched(
    world: World, crm: str = NEW, *, keep_state: bool = False, force: bool = False, **parts: Any
) -> SwitchedCrm:
    """What `winback switch-crm` does, with settings that name this CRM."""
    with world.context(crm=crm, **parts) as context:
        return switch_crm(context, keep_state=keep_state, force=force)


def braze_nowhere() -> Braze:
    """A Braze at an address where nothing answers."""
    return Braze("http://127.0.0.1:9", API_KEY, budget=RetryBudget(seconds=0.1))
