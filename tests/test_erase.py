"""Is an erased user gone: from every table, from the CRM, and whatever arrives later?"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
import requests
from click.testing import CliRunner

from crm_sync.changes import Change
from crm_sync.deadline import Deadline
from crm_sync.destination import Outcome
from crm_sync.destinations.braze import Braze
from crm_sync.recheck import Recheck, suppressed
from jobs.cli import cli
from jobs.erase import Erased, erase, erase_again, sweep
from jobs.hourly import hourly
from jobs.house import House
from jobs.nightly import nightly
from jobs.retention import stays
from jobs.settings import Settings
from jobs.transform import Transform
from sandbox.crm_server import LocalCrm
from tests.bigquery_world import BigQueryWorld
from tests.world import API_KEY, NOW, World, at, copy_history
from warehouse.duckdb import DuckDBWarehouse
from warehouse.errors import ContractError, RetryableError
from warehouse.interface import UserTable, count
from warehouse.tables import USERS

ROOT = Path(__file__).parents[1]
ELIGIBLE = "select user_id from marts.crm_profiles where is_voucher_eligible order by user_id"
RECEIPTS = "select step, outcome, count_rows, http_status, error_code from ops.erasures"


@pytest.fixture(scope="module")
def six_hours(history: Path, parsed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse and a CRM after a first run that found users to tell of."""
    folder = tmp_path_factory.mktemp("six-hours")
    copy_history(history, folder)
    with LocalCrm(folder / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        World(folder, crm, parsed).run(6)
    return folder


@pytest.fixture
def told(six_hours: Path, tmp_path: Path, parsed: dict[str, Any]) -> Iterator[World]:
    """A copy of it for one test."""
    copy_history(six_hours, tmp_path)
    shutil.copy(six_hours / "crm.sqlite", tmp_path / "crm.sqlite")
    with LocalCrm(tmp_path / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm:
        yield World(tmp_path, crm, parsed)


def eligible(world: World) -> str:
    """Somebody with a voucher, of whom the CRM knows."""
    return next(user for row in world.query(ELIGIBLE) if world.crm.store.profile(user := str(row["user_id"])))


def erased(world: World, user: str, **parts: Any) -> Erased:
    with world.house(**parts) as house:
        return erase(house, user)


def places_of(world: World, text: str) -> list[str]:
    """Every column of every table in the file that holds the text somewhere."""
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
    """The last outcome of each step, of the one erasure there is."""
    rows = world.query("select * from ops.erasures order by recorded_at")
    assert len({row["erasure_id"] for row in rows}) == 1
    return {row["step"]: row["outcome"] for row in rows}


def be_down(world: World) -> None:
    fault = {"kind": "status", "status": 503, "times": 1_000}
    requests.post(f"{world.crm.url}/_control/faults", json=fault, timeout=5).raise_for_status()


def be_up(world: World) -> None:
    requests.delete(f"{world.crm.url}/_control/faults", timeout=5).raise_for_status()


def test_no_column_of_any_table_holds_an_erased_user_nor_does_the_crm(told: World) -> None:
    user = eligible(told)
    before = {place.rpartition(".")[0] for place in places_of(told, user)}

    answer = erased(told, user)

    assert before >= {"raw.app_events", "raw.users", "ops.decisions", "ops.deliveries", "marts.crm_profiles"}
    assert places_of(told, user) == []
    assert told.crm.store.profile(user) is None
    assert answer.problem is None
    deleted = {receipt.step for receipt in answer.receipts if receipt.count_rows}
    assert deleted == before


def test_receipts_recognise_a_user_without_naming_them(told: World) -> None:
    user = eligible(told)
    erased(told, user)

    rows = told.query("select * from ops.erasures")
    assert {row["user_hash"] for row in rows} == {hashlib.sha256(user.encode()).hexdigest()}
    assert {row["requested_at"] for row in rows} == {NOW}
    assert outcomes(told) == {row["step"]: "deleted" for row in rows} | {"tombstone": "written"}
    assert [row for row in rows if row["step"] in ("tombstone", "crm")][1]["http_status"] == 201
    assert user not in str(rows)


def new_session(world: World, user: str, profile: dict[str, Any]) -> None:
    """Let an old user come back: a changed profile, an hour in the app, no filing."""
    for minute in range(0, 20, 4):
        world.append_event(user, "field_saved", at(6.2) + timedelta(minutes=minute), at(6.6))
    world._append(USERS, profile | {"user_id": user, "updated_at": at(6.5), "marketing_consent": True})


def test_what_arrives_later_of_an_erased_user_is_neither_decided_nor_sent(told: World) -> None:
    gone, other = (row["user_id"] for row in told.query(f"{ELIGIBLE} limit 2"))
    profile = told.query(f"select * from raw.users where user_id = '{gone}'")[0]
    erased(told, gone, now=lambda: at(7))
    for user in (gone, other):
        new_session(told, user, profile)

    told.run(8)

    decided = told.query(f"select distinct user_id from ops.decisions where decided_at > '{at(6):%Y-%m-%d %H:%M}'")
    assert other in {row["user_id"] for row in decided}
    assert told.crm.store.profile(gone) is None
    assert places_of(told, gone) == ["raw.app_events.event_id", "raw.app_events.user_id", "raw.users.user_id"]


def test_the_night_deletes_what_arrived_of_an_erased_user_and_what_a_build_wrote_back(told: World) -> None:
    user = eligible(told)
    profile = told.query(f"select * from raw.users where user_id = '{user}'")[0]
    told.query("create table kept as select * from intermediate.int_sessions")
    erased(told, user)
    new_session(told, user, profile)
    told.query(f"insert into intermediate.int_sessions select * from kept where user_id = '{user}'")
    told.query("drop table kept")
    assert "intermediate.int_sessions.user_id" in places_of(told, user)

    with told.house() as house:
        night = nightly(house)

    assert places_of(told, user) == []
    assert not night.is_corrected


def test_a_sweep_long_after_looks_only_where_rows_may_still_arrive(told: World) -> None:
    with told.house() as house:
        assert sweep(house) == {}
    erased(told, eligible(told))

    with told.house(now=lambda: NOW + timedelta(days=9)) as house:
        assert sweep(house) == {"raw.app_events": 0, "raw.users": 0, "raw.voucher_redemptions": 0}


@pytest.mark.parametrize("selector", ["features", "audience", "acknowledged"])
def test_a_user_erased_in_the_middle_of_a_run_is_gone_at_its_end(
    told: World, monkeypatch: pytest.MonkeyPatch, selector: str
) -> None:
    user = eligible(told)
    new_session(told, user, told.query(f"select * from raw.users where user_id = '{user}'")[0])
    build = Transform.build
    asked: list[Erased] = []

    def interrupted(self: Transform, selected: str, **options: Any) -> None:
        if selected == selector and not asked:
            asked.append(erase(house, user))
        build(self, selected, **options)

    monkeypatch.setattr(Transform, "build", interrupted)
    with told.house() as house:
        hourly(house, at(8))

    assert len(asked) == 1
    assert places_of(told, user) == []
    assert told.crm.store.profile(user) is None


def test_an_erasure_that_came_no_further_than_its_tombstone_keeps_the_user_from_the_crm(world: World) -> None:
    be_down(world)
    world.run(6)
    be_up(world)
    user = world.query(ELIGIBLE)[0]["user_id"]
    erased_and_killed(world, user, 2)
    assert outcomes(world) == {"tombstone": "written"}
    assert world.query(f"select 1 from marts.crm_pending where user_id = '{user}'")

    # However long ago that was.
    result = world.run(6, now=lambda: NOW + timedelta(days=30))

    assert result.sync.suppressed["erased"] == 1
    assert world.crm.store.profile(user) is None
    assert len(world.crm.store.profiles()) == result.sync.delivered > 10


@pytest.mark.parametrize(("days", "is_held_back"), [(0, True), (1, True), (3, False)])
def test_of_a_finished_erasure_a_sync_need_not_know_once_two_nights_have_passed(
    told: World, days: int, is_held_back: bool
) -> None:
    user = eligible(told)
    rows = pa.RecordBatch.from_pylist(
        [
            {"user_id": each, "churn_probability": 0.5, "is_voucher_eligible": False, "is_withdrawal": True}
            for each in (user, "another")
        ]
    )
    erased(told, user)
    with told.house() as house:
        news = Recheck(house.warehouse, NOW + timedelta(days=days), {}, lambda: NOW).news()

    kept, reasons = suppressed(rows, news)

    assert kept.column("user_id").to_pylist() == (["another"] if is_held_back else [user, "another"])
    assert reasons == ({"erased": 1} if is_held_back else {})


class Killed(BaseException):
    """The process is no more: nothing of it has an effect after this."""


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


# The tombstone, deliveries, the CRM, the first tables and those in the middle; 22 is where the receipts are written.
@pytest.mark.parametrize("place", [1, 2, 3, 4, 5, 12, 22])
def test_killed_at_any_step_it_is_finished_by_the_same_command(told: World, place: int) -> None:
    user = eligible(told)
    erased_and_killed(told, user, place)

    answer = erased(told, user)

    assert answer.problem is None
    assert places_of(told, user) == []
    assert told.crm.store.profile(user) is None
    assert set(outcomes(told)) == {receipt.step for receipt in answer.receipts}
    assert set(outcomes(told).values()) == {"written", "deleted"}


def test_erased_again_there_is_nothing_to_do_and_no_receipt_to_add(told: World) -> None:
    user = eligible(told)
    first = erased(told, user)
    receipts = told.query(RECEIPTS)

    second = erased(told, user)

    assert second.erasure_id == first.erasure_id
    assert second.problem is None
    assert told.query(RECEIPTS) == receipts


def test_an_id_that_nobody_knows_gets_a_tombstone_and_the_crm_is_asked(told: World) -> None:
    answer = erased(told, "nobody's id; drop table raw.users --")

    assert answer.problem is None
    crm = next(receipt for receipt in answer.receipts if receipt.step == "crm")
    assert (crm.outcome, crm.error_code) == ("deleted", "not_found")
    assert {receipt.count_rows for receipt in answer.receipts} == {None, 0}
    assert outcomes(told)["tombstone"] == "written"


def test_a_crm_that_is_down_is_told_by_the_next_command_and_the_tables_are_done_already(told: World) -> None:
    user = eligible(told)
    be_down(told)
    first = erased(told, user)
    be_up(told)

    assert isinstance(first.problem, RetryableError)
    assert "Run the same command again" in str(first.problem)
    assert user not in str(first.problem)
    assert places_of(told, user) == []
    assert told.crm.store.profile(user)
    assert [r for r in told.query(RECEIPTS) if r["step"] == "crm"] == [
        {"step": "crm", "outcome": "deferred", "count_rows": None, "http_status": None, "error_code": "unavailable"}
    ]

    second = erased(told, user)

    assert second.problem is None
    assert told.crm.store.profile(user) is None
    assert [r["outcome"] for r in told.query(RECEIPTS) if r["step"] == "crm"] == ["deferred", "deleted"]


class Refusing(Braze):
    """A CRM that refuses in words that name the user."""

    def erase(self, external_ids: Any, run: Any) -> list[Outcome]:
        return [Outcome("rejected", 400, f"user_{each}_is_protected") for each in external_ids]


def test_a_refusal_is_told_without_the_user_whom_it_names(told: World) -> None:
    user = eligible(told)
    answer = erased(told, user, destination=Refusing(told.crm.url, API_KEY))

    assert isinstance(answer.problem, RetryableError)
    crm = next(receipt for receipt in answer.receipts if receipt.step == "crm")
    assert (crm.outcome, crm.http_status, crm.error_code) == ("rejected", 400, "withheld")
    assert user not in str(answer.as_dict())
    assert places_of(told, user) == []


def test_a_wrong_key_is_a_contract_error_after_the_tables_are_done(told: World) -> None:
    user = eligible(told)
    answer = erased(told, user, destination=Braze(told.crm.url, "wrong"))

    assert isinstance(answer.problem, ContractError)
    assert outcomes(told)["crm"] == "deferred"
    assert places_of(told, user) == []


def test_a_table_that_cannot_be_deleted_from_does_not_keep_the_rest(
    told: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = eligible(told)
    delete = DuckDBWarehouse.delete_users

    def failing(self: DuckDBWarehouse, table: Any, *args: Any) -> int:
        if table.name == "int_sessions":
            raise RetryableError("The warehouse is out of reach.")
        return delete(self, table, *args)

    with monkeypatch.context() as patch:
        patch.setattr(DuckDBWarehouse, "delete_users", failing)
        answer = erased(told, user)

    assert isinstance(answer.problem, RetryableError)
    assert "intermediate.int_sessions may still hold rows" in str(answer.problem)
    assert places_of(told, user) == ["intermediate.int_sessions.user_id"]
    assert erased(told, user).problem is None
    assert places_of(told, user) == []


def overtake(world: World, user: str, since: datetime) -> None:
    """As when a batch with the user was under way while the CRM erased them: sent, and logged after the tables were done."""
    destination = world.destination()
    destination.send([Change(user, {"churn_risk_band": "high"})], Deadline("late", 60))
    destination.close()
    world.query(
        f"""
        insert into ops.deliveries by name
        select * replace ('{user}' as user_id, timestamp '{since:%Y-%m-%d %H:%M:%S}' as attempted_at)
        from ops.deliveries limit 1
        """
    )


def test_whom_a_batch_under_way_made_anew_the_run_erases_again(told: World) -> None:
    user = eligible(told)
    erased(told, user)
    overtake(told, user, NOW)
    assert told.crm.store.profile(user)

    with told.house() as house:
        assert erase_again(house, NOW, Deadline("run", 60)) == 1
        assert erase_again(house, NOW, Deadline("run", 60)) == 0

    assert told.crm.store.profile(user) is None
    assert places_of(told, user) == []
    assert [r["outcome"] for r in told.query(RECEIPTS) if r["step"] == "crm"] == ["deleted", "deleted"]
    assert len(told.crm.store.profiles()) > 10


def test_where_the_crm_does_not_answer_the_next_run_erases_again(told: World) -> None:
    user = eligible(told)
    erased(told, user)
    overtake(told, user, NOW)
    be_down(told)
    with told.house() as house:
        assert erase_again(house, NOW, Deadline("run", 60)) == 0
    be_up(told)
    assert outcomes(told)["crm"] == "deferred"

    with told.house() as house:
        sweep(house)
        assert erase_again(house, NOW + timedelta(hours=1), Deadline("run", 60)) == 1

    assert told.crm.store.profile(user) is None
    assert places_of(told, user) == []
    assert sorted(r["outcome"] for r in told.query(RECEIPTS) if r["step"] == "crm") == [
        "deferred",
        "deleted",
        "deleted",
    ]


def test_without_a_recent_tombstone_nobody_is_erased_again(told: World) -> None:
    user = eligible(told)
    told.query(
        f"""
        insert into ops.erasures by name select 'old' as erasure_id, sha256('{user}') as user_hash, 'tombstone' as step,
        'written' as outcome, timestamp '2026-05-01' as requested_at, timestamp '2026-05-01' as recorded_at
        """
    )
    with told.house() as house:
        assert erase_again(house, NOW, Deadline("run", 60)) == 0
    assert told.crm.store.profile(user)


def winback(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "",
        "WINBACK_WAREHOUSE": f"duckdb:///{world.folder / 'winback.duckdb'}",
        "WINBACK_CRM_URL": world.crm.url,
        "WINBACK_CRM_API_KEY": API_KEY,
        "WINBACK_RETRY_BUDGET_SECONDS": "0.1",
    }
    command = [sys.executable, "-m", "jobs", "erase", *arguments]
    return subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_the_command_leaves_with_1_until_all_is_done_and_never_prints_the_id(told: World) -> None:
    user = eligible(told)
    be_down(told)
    failed = winback(told, user, "--yes")
    be_up(told)
    done = winback(told, user, "--yes", "--json")

    assert failed.returncode == 1
    assert "deferred" in failed.stdout
    assert "What stays" in failed.stdout
    assert "not erased in the CRM yet" in json.loads(failed.stderr.splitlines()[-1])["message"]
    assert (done.returncode, json.loads(done.stdout)["problem"]) == (0, None)
    assert {row["step"]: row["outcome"] for row in json.loads(done.stdout)["receipts"]}["crm"] == "deleted"
    assert user not in failed.stdout + failed.stderr + done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "told_to"),
    [
        (["canary"], "add --yes"),
        (["--yes"], "Write winback erase USER"),
        (["--yes", "canary", "of a user"], "Write winback erase USER"),
        (["--yes", "--canary"], "Write winback erase USER"),
        (["--yes", ""], "The user's id is empty"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said_without_repeating_it(arguments: list[str], told_to: str) -> None:
    refused = CliRunner().invoke(cli, ["erase", *arguments])

    assert refused.exit_code == 2
    assert told_to in refused.output
    assert "canary" not in refused.output


@pytest.mark.parametrize("crm", get_args(Settings.model_fields["crm"].annotation))
def test_what_stays_is_told_of_every_crm_and_both_warehouses(crm: str) -> None:
    assert any(crm in sentence.lower() for sentence in stays(crm, is_bigquery=True))
    assert any("7 days" in sentence for sentence in stays(crm, is_bigquery=True))
    assert any("bytes" in sentence for sentence in stays(crm, is_bigquery=False))


def test_on_bigquery_the_app_s_tables_are_kept_and_what_they_hold_is_read_no_more(
    twin_worlds: tuple[World, BigQueryWorld], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBT_EXCLUDE_RESOURCE_TYPES", "test")
    last = twin_worlds[1].query("select max(window_until) as until from ops.runs")[0]["until"]
    until = last + timedelta(hours=6)
    for world in twin_worlds:  # both, for other tests compare the two
        with world.house() as house:
            hourly(house, until)
            user = eligible(world)
            answer = erase(house, user)
            assert answer.problem is None
            assert "raw.app_events" not in sweep(house) or world is twin_worlds[0]
            assert erase_again(house, NOW, Deadline("run", 60)) == 0
            left = rows_of(house, user)
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


def rows_of(house: House, user: str) -> set[str]:
    """The tables with rows of a user."""
    return {
        table.title
        for table in house.warehouse.user_tables()
        if count(
            house.warehouse,
            f"{house.warehouse.relation(table.layer, table.name)} where {table.bound} and user_id = '{user}'",
        )
    }
