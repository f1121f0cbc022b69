"""Erasure on BigQuery: winback cannot delete from the app's tables, but no longer reads their rows of the user."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

import pytest

from crm_sync.deadline import Deadline
from jobs.context import JobContext
from jobs.erasure.erase import erase, purge_reappeared_rows, re_erase_recent
from jobs.hourly.run import hourly
from tests.support.bigquery_environment import BigQueryWorld
from tests.support.builders.erase import eligible
from tests.support.environment import NOW, World, at
from warehouse.interface import UserTable, count


def test_on_bigquery_the_app_s_tables_are_kept_and_what_they_hold_is_read_no_more(
    twin_worlds: tuple[World, BigQueryWorld], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_EXCLUDE_RESOURCE_TYPES", "test")
    last = twin_worlds[1].query("select max(window_until) as until from ops.runs")[0]["until"]
    until = last + timedelta(hours=6)
    for world in twin_worlds:  # both, because other tests compare them
        with world.context() as context:
            hourly(context, until)
            user = eligible(world)
            answer = erase(context, user)
            assert answer.problem is None
            assert "raw.app_events" not in purge_reappeared_rows(context) or world is twin_worlds[0]
            assert re_erase_recent(context, NOW, Deadline("run", 60)) == 0
            left = rows_of(context, user)
    assert {r.step for r in answer.receipts if r.outcome == "kept"} == {
        *("raw.app_events", "raw.users", "raw.voucher_redemptions"),
    }
    deleted = {r.step for r in answer.receipts if r.count_rows}
    assert deleted >= {
        *("ops.decisions", "ops.deliveries", "marts.crm_profiles", "marts.crm_acknowledged"),
        *("marts.fct_exit_features_logged", "intermediate.int_events__deduplicated", "intermediate.int_sessions"),
    }
    assert left == {"raw.app_events", "raw.users"}
    gone = UserTable("marts", "dropped_meanwhile")
    with closing(twin_worlds[1].warehouse()) as warehouse:
        assert warehouse.delete_users(gone, "user_id is null", {}) == 0
    world.append_event(user, "help_opened", until + timedelta(minutes=1), until + timedelta(minutes=2))
    for view, bound in {
        "stg_app__events": f"loaded_at >= timestamp '{at(-2000):%Y-%m-%d}'",
        "stg_app__users": "true",
    }.items():
        assert world.query(f"select count(*) as n from staging.{view} where {bound} and user_id = '{user}'") == [
            {"n": 0}
        ]
    assert world.crm.store.profile(user) is None


def rows_of(context: JobContext, user: str) -> set[str]:
    """Return the tables with rows of a user."""
    return {
        table.title
        for table in context.warehouse.user_tables()
        if count(
            context.warehouse,
            f"{context.warehouse.relation(table.layer, table.name)} where {table.bound} and user_id = '{user}'",
        )
    }
