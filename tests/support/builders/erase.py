"""Builders for tests of erasure: a world whose CRM knows users, and a search for a user in all tables."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from crm_sync.destinations.braze import Braze
from jobs.erasure.erase import Erased, erase
from sandbox.local_crm.server import LocalCrm
from tests.support.environment import API_KEY, NOW, World, at, copy_history
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import USERS

ELIGIBLE = "select user_id from marts.crm_profiles where is_voucher_eligible order by user_id"
RECEIPTS = "select step, outcome, count_rows, http_status, error_code from ops.erasures"


@contextmanager
def told_world(history: Path, folder: Path, parsed: dict[str, Any]) -> Iterator[World]:
    """A copy of a world in the folder, with its CRM if it has one."""
    copy_history(history, folder)
    if (history / "crm.sqlite").exists():
        shutil.copy(history / "crm.sqlite", folder / "crm.sqlite")
    with LocalCrm(folder / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        yield World(folder, crm, parsed)


def eligible(world: World) -> str:
    """Return a user with a voucher who is in the CRM."""
    return next(user for row in world.query(ELIGIBLE) if world.crm.store.profile(user := str(row["user_id"])))


def erased(world: World, user: str, **parts: Any) -> Erased:
    with world.context(**parts) as context:
        return erase(context, user)


def places_of(world: World, text: str) -> list[str]:
    """Return every column of every table in the file that contains the text."""
    columns = world.query(
        """
        select table_schema || '.' || table_name as title, column_name from information_schema.columns
        inner join information_schema.tables using (table_catalog, table_schema, table_name)
        where data_type = 'VARCHAR' and table_type = 'BASE TABLE' order by all
        """
    )
    assert len(columns) > 100
    asked = [
        f"select '{row['title']}.{row['column_name']}' as place from {row['title']} "
        f"where contains({row['column_name']}, '{text}')"
        for row in columns
    ]
    return sorted({row["place"] for row in world.query(" union all ".join(asked))})


def outcomes(world: World) -> dict[str, str]:
    """Return the last outcome of each step of the only erasure."""
    rows = world.query("select * from ops.erasures order by recorded_at")
    assert len({row["erasure_id"] for row in rows}) == 1
    return {row["step"]: row["outcome"] for row in rows}


def new_session(world: World, user: str, profile: dict[str, Any]) -> None:
    """Let an old user return: a changed profile, an hour in the app, no filing."""
    for minute in range(0, 20, 4):
        world.append_event(user, "field_saved", at(6.2) + timedelta(minutes=minute), at(6.6))
    world._append(
        USERS, profile | {"user_id": user, "updated_at": at(6.5), "loaded_at": at(6.5), "marketing_consent": True}
    )


class Killed(BaseException):
    """The process was killed: no later code has an effect."""


def erased_and_killed(world: World, user: str, place: int) -> None:
    """Erase, and be killed before the n-th effect."""
    left = [place]

    def mortal(effect: Any) -> Any:
        def attempted(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] <= 0:
                raise Killed
            return effect(*args, **kwargs)

        return attempted

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((DuckDBWarehouse, "append"), (DuckDBWarehouse, "delete_users"), (Braze, "erase")):
            patch.setattr(owner, name, mortal(getattr(owner, name)))
        with pytest.raises(Killed):
            erased(world, user)
