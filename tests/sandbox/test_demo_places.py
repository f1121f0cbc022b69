"""Places of the demo: it deletes only what a demo made, and names what prevents it."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.errors import ContractError
from jobs.transform.watermark import stale
from jobs.upkeep.demo_mark import DemoMark, of_demo, read_mark, write_mark
from sandbox import crm_file
from sandbox.demo_places import Places, clear, places_of
from sandbox.local_crm.server import LocalCrm
from sandbox.local_crm.store.profiles import CrmStore
from sandbox.synthetic_app import SyntheticApp
from tests.support.crm.local_crm import Clock, page, scored
from tests.support.environment import settings_in, small_app
from warehouse import ledger
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.load import load

HISTORY = datetime(2026, 5, 20, 16, tzinfo=UTC)
HOUR = HISTORY + timedelta(hours=1)
NOW = datetime(2026, 11, 27, tzinfo=UTC)
MARK = DemoMark(HISTORY, frozenset({HISTORY, HOUR}), datetime(2026, 6, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def app() -> SyntheticApp:
    return small_app(count_users=60)


def epoch(number: int, until: datetime, kind: str = "hourly") -> ledger.Epoch:
    return ledger.Epoch(number, f"{number:08d}-x", kind, until, until, 0, 0, 0, 0, until)


@pytest.fixture
def places(tmp_path: Path, app: SyntheticApp) -> Places:
    """Results of a demo: raw rows and their files, two epochs, a model, a CRM with profiles."""
    found = places_of(settings_in(tmp_path))
    app.write(found.data)
    with closing(DuckDBWarehouse(found.warehouse)) as warehouse:
        write_mark(warehouse, MARK)
        warehouse.prepare()
        load(warehouse, {name: found.data / f"{name}.parquet" for name in ("events", "users")}, now=NOW)
        for number, until in enumerate((HISTORY, HOUR)):
            ledger.commit(warehouse, epoch(number, until, "hourly" if number else "backfill"))
    for name in ("20260520T160000Z-aaaaaaaa", ".20260520T160000Z-bbbbbbbb.partial", "artifacts"):
        (found.models / name).mkdir(parents=True)
        (found.models / name / "file").write_text("x")
    for name in ("champion", "registry.db", "registry.db-wal"):
        (found.models / name).write_text("x")
    with closing(CrmStore(found.crm)) as store:
        store.apply([{"external_id": user(app), "voucher_eligible": True}], HOUR, run_id="1")
        store.stand_at(HOUR)
    return found


def user(app: SyntheticApp) -> str:
    return str(app.users.column("user_id")[0].as_py())


def contents(places: Places) -> dict[str, int]:
    folder = places.warehouse.parent
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_an_earlier_demo_made_is_removed_and_the_crm_is_emptied(places: Places) -> None:
    clear(places)

    assert not places.warehouse.exists()
    assert list(places.models.iterdir()) == []
    assert list(places.data.iterdir()) == []
    with closing(CrmStore(places.crm)) as store:
        assert (store.profiles(), store.count_runs(), store.stands_at()) == ({}, 0, None)


def own_event(places: Places, app: SyntheticApp) -> str:
    file = places.warehouse.parent / "own.csv"
    file.write_text(
        f"event_id,user_id,event_name,occurred_at,loaded_at\ne-own,{user(app)},a,2026-05-01T10:00:00Z,2026-05-01T11:00:00Z\n"
    )
    with closing(DuckDBWarehouse(places.warehouse)) as warehouse:
        load(warehouse, {"events": file}, now=NOW)
    return "winback.duckdb: 1 rows of raw.app_events"


def own_profile(places: Places, app: SyntheticApp) -> str:
    file = places.warehouse.parent / "own.csv"
    file.write_text(
        "user_id,created_at,updated_at,marketing_consent\nown,2026-05-01T10:00:00Z,2026-05-01T10:00:00Z,true\n"
    )
    with closing(DuckDBWarehouse(places.warehouse)) as warehouse:
        load(warehouse, {"users": file}, now=NOW)
    return "winback.duckdb: 1 rows of raw.users"


def own_redemption(places: Places, app: SyntheticApp) -> str:
    file = places.warehouse.parent / "own.csv"
    file.write_text(
        "redemption_id,user_id,campaign,redeemed_at,loaded_at\nr,own,c,2026-05-01T10:00:00Z,2026-05-01T10:00:00Z\n"
    )
    with closing(DuckDBWarehouse(places.warehouse)) as warehouse:
        load(warehouse, {"redemptions": file}, now=NOW)
    return "winback.duckdb: 1 rows of raw.voucher_redemptions"


def own_epoch(places: Places, app: SyntheticApp) -> str:
    with closing(DuckDBWarehouse(places.warehouse)) as warehouse:
        ledger.commit(warehouse, epoch(2, NOW))
    return "winback.duckdb: 1 epochs, the last until 2026-11-27 00:00 UTC"


def own_table(places: Places, app: SyntheticApp) -> str:
    with closing(DuckDBWarehouse(places.warehouse)) as warehouse:
        warehouse.change("create table main.analysis as select 1 as n")
    return "winback.duckdb: table main.analysis"


def own_model(places: Places, app: SyntheticApp) -> str:
    (places.models / "20261127T000000Z-cccccccc").mkdir()
    return "models/20261127T000000Z-cccccccc: not a model of the demo"


def own_file_among_models(places: Places, app: SyntheticApp) -> str:
    (places.models / "notes.txt").write_text("mine")
    return "models/notes.txt: not a model of the demo"


def own_profile_in_crm(places: Places, app: SyntheticApp) -> str:
    with closing(CrmStore(places.crm)) as store:
        store.apply([{"external_id": "own"}], NOW)
    return "crm.sqlite: 1 profiles of users that the demo did not make"


def another_file_as_crm(places: Places, app: SyntheticApp) -> str:
    for path in places.crm.parent.glob("crm.sqlite-*"):
        path.unlink()
    places.crm.write_text("my notes, which are no database at all\n" * 99)
    return "crm.sqlite: not a file of the local CRM"


def no_mark(places: Places, app: SyntheticApp) -> str:
    with closing(DuckDBWarehouse(places.warehouse)) as warehouse:
        warehouse.change("drop schema demo cascade")
    return f"winback.duckdb: {app.events.num_rows:,} rows of raw.app_events"


def no_files(places: Places, app: SyntheticApp) -> str:
    for path in places.data.iterdir():
        path.unlink()
    return f"winback.duckdb: {app.events.num_rows:,} rows of raw.app_events"


OWN = [
    own_event,
    own_profile,
    own_redemption,
    own_epoch,
    own_table,
    own_model,
    own_file_among_models,
    own_profile_in_crm,
    another_file_as_crm,
    no_mark,
    no_files,
]


@pytest.mark.parametrize("name", ["winback.duckdb", "crm.sqlite", "demo/events.parquet"])
def test_a_folder_where_the_demo_has_a_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(parents=True)

    with pytest.raises(ContractError, match=re.escape(f"{tmp_path / name}: it is a folder")):
        clear(places_of(settings_in(tmp_path)))


@pytest.mark.parametrize("name", ["models", "demo"])
def test_a_file_where_the_demo_has_a_folder_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()

    with pytest.raises(ContractError, match=re.escape(f"{tmp_path / name}: it is not a folder")):
        clear(places_of(settings_in(tmp_path)))


@pytest.mark.parametrize("brings", OWN)
def test_what_no_demo_made_is_named_and_nothing_at_all_is_deleted(
    places: Places, app: SyntheticApp, brings: object
) -> None:
    assert callable(brings)
    named = brings(places, app)
    before = contents(places)

    with pytest.raises(ContractError) as refused:
        clear(places)

    assert f"{places.warehouse.parent}/{named}" in str(refused.value)
    assert "Set WINBACK_WAREHOUSE and WINBACK_MODELS to places of your own" in str(refused.value)
    assert "make clean" in str(refused.value)
    after = contents(places)
    assert {name: size for name, size in after.items() if "crm.sqlite-" not in name} == {
        name: size for name, size in before.items() if "crm.sqlite-" not in name
    }


def test_a_crm_that_was_opened_before_the_demo_is_no_obstacle(tmp_path: Path) -> None:
    found = places_of(settings_in(tmp_path))
    with LocalCrm(found.crm):
        pass

    clear(found)


def test_a_file_beside_the_demos_own_stays(places: Places) -> None:
    (places.data / "mine.csv").write_text("x")

    clear(places)

    assert [path.name for path in places.data.iterdir()] == ["mine.csv"]


def test_a_file_that_is_no_warehouse_is_named(tmp_path: Path) -> None:
    (tmp_path / "winback.duckdb").write_text("x" * 9_999)

    with pytest.raises(ContractError, match=r"winback\.duckdb cannot be opened"):
        clear(places_of(settings_in(tmp_path)))


def test_the_demo_begins_where_nothing_is(tmp_path: Path) -> None:
    clear(places_of(settings_in(tmp_path / "new")))

    assert list(tmp_path.iterdir()) == []


def test_the_demo_may_be_made_again_after_it_was_killed_before_it_loaded(tmp_path: Path, app: SyntheticApp) -> None:
    found = places_of(settings_in(tmp_path))
    with closing(DuckDBWarehouse(found.warehouse)) as warehouse:
        write_mark(warehouse, MARK)
    app.write(found.data)

    clear(found)

    assert not found.warehouse.exists()


def test_a_server_that_has_the_crm_open_sees_the_new_one(places: Places) -> None:
    with LocalCrm(places.crm, clock=Clock()) as crm:
        assert "<dd>1<small>" in page(crm, "/")
        clear(places)
        assert "<dd>0<small>" in page(crm, "/")
        with closing(CrmStore(places.crm)) as store:
            store.apply([scored(f"new-{n}") for n in range(7)], HOUR)
        assert "<dd>7<small>" in page(crm, "/")
        with closing(sqlite3.connect(places.crm)) as db:
            assert db.execute("select count(*) from profiles").fetchone() == (7,)


def test_the_mark_is_read_as_it_was_written(places: Places) -> None:
    with closing(DuckDBWarehouse(places.warehouse)) as warehouse:
        assert read_mark(warehouse) == MARK
        write_mark(warehouse, DemoMark(HISTORY, frozenset({HISTORY}), HOUR))
        assert read_mark(warehouse) == DemoMark(HISTORY, frozenset({HISTORY}), HOUR)


@pytest.mark.parametrize(
    ("has_mark", "last", "says", "command"),
    [
        (True, epoch(1, HOUR), "demo", "winback backtest --until 2026-05-20T18:00 --every 1"),
        (True, epoch(0, HISTORY, "backfill"), "demo", "winback demo"),
        (True, epoch(2, NOW - timedelta(days=2)), "schedule", "winback run"),
        (False, epoch(1, HOUR), "schedule", "winback run"),
        (False, epoch(0, HISTORY, "backfill"), None, None),
    ],
)
def test_an_old_watermark_is_told_with_what_to_do_there(
    tmp_path: Path, has_mark: bool, last: ledger.Epoch, says: str | None, command: str | None
) -> None:
    """A demo is as old as its data. A schedule exists only after the first hourly run."""
    with closing(DuckDBWarehouse(tmp_path / "a.duckdb")) as warehouse:
        if has_mark:
            write_mark(warehouse, MARK)
        old = stale(warehouse, last, NOW, 7_200)
    assert (old.is_demo if old else None) == {"demo": True, "schedule": False, None: None}[says]
    assert (old.do[1] if old else None) == command
    if old and says == "demo":
        assert old.says == of_demo(last)
        assert "winback run" not in old.told


def test_the_crm_stands_beside_the_warehouse(tmp_path: Path) -> None:
    assert crm_file(tmp_path / "own" / "winback.duckdb") == tmp_path / "own" / "crm.sqlite"
    assert crm_file(None) == Path("var/crm.sqlite")
