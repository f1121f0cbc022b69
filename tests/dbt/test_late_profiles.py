"""Late and missing profiles: withdrawals of consent take effect, and a missing profile has its own reason.

Also: an erasure frees no budget.
"""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.context import JobContext
from jobs.erasure.erase import erase
from jobs.hourly.run import hourly
from jobs.status import status
from tests.support.environment import World, at, settings_in
from tests.support.run_assertions import granted
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import USERS

DAYS = timedelta(days=1)


def with_old_profiles(world: World, users: list[str]) -> dict[str, datetime]:
    """Return the time of the profile, for users with a single version that is more than five days old."""
    names = ", ".join(f"'{user}'" for user in users)
    sql = f"""
        select user_id, max(updated_at) as at from raw.users where user_id in ({names})
        group by user_id having count(*) = 1 order by user_id
    """
    return {row["user_id"]: row["at"] for row in world.query(sql) if row["at"] < at(2) - 5 * DAYS}


def held(world: World, user: str) -> tuple[Any, Any, bool]:
    profile = world.crm.store.profile(user) or {}
    return profile.get("voucher_eligible"), profile.get("voucher_reason"), "churn_probability" in profile


def test_a_withdrawal_takes_the_voucher_away_however_late_it_arrives(world: World) -> None:
    world.run(2)
    written = with_old_profiles(world, granted(world))
    late, tied, given_back, gone = list(written)[:4]
    # These versions were written just after the first version, at the same time or before it. They arrive now.
    world.append_profile(late, written[late] + timedelta(seconds=1), loaded_at=at(2.5), marketing_consent=False)
    world.append_profile(tied, written[tied], loaded_at=at(2.5), marketing_consent=False)
    world.append_profile(given_back, written[given_back] - DAYS, loaded_at=at(2.5), marketing_consent=False)
    erased_at = written[gone] + timedelta(seconds=1)
    world.append_profile(gone, erased_at, loaded_at=at(2.5), erased_at=erased_at, marketing_consent=False)

    result = world.run(3)

    assert held(world, late) == (False, "no_consent", False)
    assert held(world, tied) == (False, "no_consent", False)
    assert held(world, given_back) == (True, "granted", True)
    assert held(world, gone) == (
        True,
        "granted",
        True,
    )  # the sync sends nothing about an erased user; winback erase does
    assert result.sync.suppressed == {"erased": 1}
    assert (result.arrivals.profiles_late, result.arrivals.withdrawals_late) == (4, 4)

    # status counts the same rows that a run over the same hour finds.
    with world.context(now=lambda: at(3)) as context:
        seen = status(context)
        again = hourly(context, at(3))
    assert (seen.pending, seen.suppressed) == (0, {"erased": 1})
    assert (again.sync.differing, again.sync.suppressed, again.sync.requests) == (1, {"erased": 1}, 0)


def test_a_table_without_a_time_of_arrival_misses_no_withdrawal_either(world: World) -> None:
    """On BigQuery the app owns the table, which may lack the column. The staging model and the recheck work without it."""
    world.run(2)
    written = with_old_profiles(world, granted(world))
    user = next(iter(written))
    # prepare() would refuse a DuckDB table without the column, so here it exists and is null.
    world.append_profile(user, written[user] + timedelta(seconds=1), loaded_at=None, marketing_consent=False)

    world.run(3)

    assert held(world, user) == (False, "no_consent", False)


def test_users_without_a_profile_have_a_reason_of_their_own_and_are_no_difference(world: World) -> None:
    warehouse = DuckDBWarehouse(world.folder / "winback.duckdb")
    # Half of the ids are spelled differently, as a spreadsheet writes them. One version in ten is dated next year.
    warehouse.connection.execute("""
        update raw.users set user_id = replace(user_id, 'u-', '') || '.0' where hash(user_id) % 2 = 0;
        update raw.users set updated_at = timestamp '2027-01-01', loaded_at = timestamp '2027-01-01' where hash(user_id) % 10 = 1
    """)
    warehouse.close()

    result = world.run(1)

    assert result.scoring
    reasons = world.query("""
        select eligibility_reason as reason, count(*) as n, count(profiles.user_id) as known from staging.stg_ops__decisions as d
        left join (select distinct user_id from raw.users where updated_at < timestamp '2026-06-01') as profiles using (user_id)
        where disposition = 'scored' group by 1
    """)
    unknown = {row["reason"]: (row["n"], row["known"]) for row in reasons}
    assert unknown["no_profile"] == (result.scoring.eligibility_reasons["no_profile"], 0)
    assert unknown["no_consent"][0] == unknown["no_consent"][1] > 0
    desired = world.query("select count(*) as n from marts.crm_profiles where voucher_reason = 'no_profile'")
    assert desired == [{"n": unknown["no_profile"][0]}]
    assert result.sync.suppressed == {}
    assert result.sync.differing == result.sync.delivered > 0

    # The profile arrives, so the user may be sent to the CRM, and the score is sent.
    user = world.query("select user_id from marts.crm_profiles where voucher_reason = 'no_profile' order by 1 limit 1")[
        0
    ]["user_id"]
    written = at(0) - 9 * DAYS
    one = world.query("select * from raw.users limit 1")[0]
    new = {"user_id": user, "updated_at": written, "loaded_at": at(1.5), "marketing_consent": True, "erased_at": None}
    world._append(USERS, one | new)
    world.run(2)
    assert held(world, user) == (False, "no_profile", True)


def test_erasing_users_hands_no_budget_back(world: World, tmp_path: Path) -> None:
    config = tmp_path / "config"
    shutil.copytree(settings_in(world.folder).config, config)
    vouchers = config / "vouchers.yml"
    vouchers.write_text(
        vouchers.read_text()
        .replace("budget_per_day: 1000", "budget_per_day: 5")
        .replace("budget_per_run: 200", "budget_per_run: 3")
    )
    settings = settings_in(world.folder, config=config)
    counts = []
    for hours in (1, 2, 3):
        scoring = world.run(hours, settings=settings).scoring
        assert scoring
        counts.append(scoring.eligible)
        with world.context(settings=settings) as context:
            for user in granted_in(context):
                erase(context, user)
            assert granted_in(context) == []

    assert counts == [3, 2, 0]


def granted_in(context: JobContext) -> list[str]:
    users: list[str] = (
        context.warehouse.query("select user_id from ops.decisions where is_eligible").column(0).to_pylist()
    )
    return users
