"""Lease: it keeps a second run out, and the next run rebuilds what an unclean run left."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.errors import RetryableError, RunInProgressError
from jobs.hourly.run import Result, hourly
from jobs.transform.dbt import Transform, Window
from tests.support.environment import World, at
from warehouse import lease as leases
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.lease import Lease
from warehouse.tables import Table

TEN = datetime(2026, 6, 1, 10, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
HOUR = timedelta(hours=1)


def minutes(count: float) -> datetime:
    """The time this many minutes after ten o'clock."""
    return TEN + timedelta(minutes=count)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    with closing(DuckDBWarehouse(tmp_path / "leases.duckdb")) as warehouse:
        warehouse.prepare()
        yield warehouse


# The lease itself


def test_the_first_run_takes_number_nought(warehouse: DuckDBWarehouse) -> None:
    mine = leases.take(warehouse, "a", TEN - HOUR, TEN, QUARTER)

    assert mine == Lease(0, "a", TEN, minutes(15), TEN - HOUR)
    assert leases.newest(warehouse) == mine


@pytest.mark.parametrize("moment", [0, 14.99])
def test_a_second_run_is_kept_out_until_the_lease_expires(warehouse: DuckDBWarehouse, moment: float) -> None:
    leases.take(warehouse, "a", TEN, TEN, QUARTER)

    with pytest.raises(RunInProgressError, match="a has the lease until 10:15:00 UTC"):
        leases.take(warehouse, "b", TEN, minutes(moment), QUARTER)


@pytest.mark.parametrize("moment", [15, 600])
def test_an_expired_lease_is_taken_over(warehouse: DuckDBWarehouse, moment: float) -> None:
    leases.take(warehouse, "a", TEN, TEN, QUARTER)

    assert leases.take(warehouse, "b", TEN, minutes(moment), QUARTER).lease == 1


def test_a_lease_given_back_is_free_at_once(warehouse: DuckDBWarehouse) -> None:
    leases.release(warehouse, leases.take(warehouse, "a", TEN, TEN, QUARTER), minutes(1))

    assert leases.take(warehouse, "b", TEN, minutes(1), QUARTER).lease == 2


def test_a_lease_of_no_length_keeps_nobody_out_and_still_leaves_its_row(warehouse: DuckDBWarehouse) -> None:
    leases.take(warehouse, "a", TEN, TEN, timedelta(0))

    assert leases.take(warehouse, "b", TEN, TEN, timedelta(0)).lease == 1


def test_a_renewed_lease_keeps_others_out_for_longer(warehouse: DuckDBWarehouse) -> None:
    leases.renew(warehouse, leases.take(warehouse, "a", TEN, TEN, QUARTER), minutes(10), QUARTER)

    with pytest.raises(RunInProgressError):
        leases.take(warehouse, "b", TEN, minutes(24), QUARTER)
    assert leases.take(warehouse, "b", TEN, minutes(25), QUARTER).lease == 2


def test_whoever_was_overtaken_can_neither_renew_nor_release(warehouse: DuckDBWarehouse) -> None:
    stale = leases.take(warehouse, "a", TEN, TEN, QUARTER)
    leases.take(warehouse, "b", TEN, minutes(20), QUARTER)

    with pytest.raises(RetryableError, match="took over"):
        leases.renew(warehouse, stale, minutes(21), QUARTER)
    assert not leases.release(warehouse, stale, minutes(21))
    newest = leases.newest(warehouse)
    assert newest
    assert (newest.run_id, newest.is_released) == ("b", False)


AHEAD = timedelta(days=400)


def test_a_lease_that_a_wrong_clock_took_in_the_future_keeps_nobody_out(warehouse: DuckDBWarehouse) -> None:
    leases.take(warehouse, "a", TEN, TEN + AHEAD, QUARTER)

    assert leases.take(warehouse, "b", TEN, TEN, QUARTER).lease == 1


def test_a_lease_of_a_machine_whose_clock_is_a_little_ahead_is_kept(warehouse: DuckDBWarehouse) -> None:
    leases.take(warehouse, "a", TEN, minutes(10), QUARTER)

    with pytest.raises(RunInProgressError):
        leases.take(warehouse, "b", TEN, TEN, QUARTER)


@pytest.mark.parametrize(
    ("run_id", "is_hourly"),
    [
        ("00000003-20260520T190000Z-1a83db86", True),
        ("00000003-dry-run-1a83db86", False),
        ("00000003-nightly-1a83db86", False),
        ("00000003-repair-1a83db86", False),
    ],
)
def test_who_is_kept_out_knows_whether_an_hourly_run_does_the_work(
    warehouse: DuckDBWarehouse, run_id: str, is_hourly: bool
) -> None:
    leases.take(warehouse, run_id, TEN, TEN, QUARTER)

    with pytest.raises(RunInProgressError) as busy:
        leases.take(warehouse, "b", TEN, TEN, QUARTER)
    assert busy.value.is_hourly == is_hourly


class Contended(DuckDBWarehouse):
    """A warehouse in which another run is always faster: each append of a lease finds its number taken."""

    def append_once(self, table: Table, row: dict[str, Any]) -> bool:
        super().append_once(table, row | {"run_id": f"rival-{row['lease']}"})
        return super().append_once(table, row)


def test_of_two_contenders_for_a_number_one_wins(tmp_path: Path) -> None:
    with closing(Contended(tmp_path / "leases.duckdb")) as warehouse:
        warehouse.prepare()
        with pytest.raises(RunInProgressError, match="rival-0"):
            leases.take(warehouse, "a", TEN, TEN, QUARTER)


def test_who_always_loses_gives_up(tmp_path: Path) -> None:
    with closing(Contended(tmp_path / "leases.duckdb")) as warehouse:
        warehouse.prepare()
        with pytest.raises(RunInProgressError, match="are starting"):
            leases.take(warehouse, "a", TEN, TEN, timedelta(0))


class ReplyLost(DuckDBWarehouse):
    """A warehouse that stores rows but reports that their key exists already, as BigQuery does after a lost reply."""

    def append_once(self, table: Table, row: dict[str, Any]) -> bool:
        super().append_once(table, row)
        return False


def test_a_row_whose_reply_was_lost_is_still_ours(tmp_path: Path) -> None:
    with closing(ReplyLost(tmp_path / "leases.duckdb")) as warehouse:
        warehouse.prepare()
        taken = leases.take(warehouse, "a", TEN, TEN, QUARTER)
        renewed = leases.renew(warehouse, taken, minutes(5), QUARTER)

        assert (taken.lease, renewed.lease) == (0, 1)
        assert leases.release(warehouse, renewed, minutes(6))


# Unfinished work of earlier runs

# Each run: name, and in minutes after ten o'clock: lease taken, window start, lease released.
Run = tuple[str, float, float, float | None]
LEFT: dict[str, tuple[list[Run], float | None]] = {
    "no earlier run": ([], None),
    "all ended cleanly": ([("a", 0, -60, 5), ("b", 60, 0, 65)], None),
    "the last one did not": ([("a", 0, -60, 5), ("b", 60, 0, None)], 0),
    "none ended cleanly": ([("a", 0, -60, None), ("b", 60, -60, None), ("c", 120, 0, None)], -60),
    "a killed run, and a clean one that may have overlapped": ([("a", 0, -60, None), ("b", 30, -60, 35)], -60),
    "at exactly the maximum run time": ([("a", 0, -60, None), ("b", 60, -60, 65)], -60),
    "a killed run that was over when the clean one began": ([("a", 0, -60, None), ("b", 61, -60, 65)], None),
    "a clean run counts from its start, not its end": ([("a", 0, -60, None), ("b", 40, -60, 95)], -60),
    "an older clean run proves nothing": ([("a", 0, -60, 5), ("b", 10, -60, None), ("c", 30, -60, None)], -60),
    "a run that began before the clean one and continued": ([("a", 0, -120, None), ("b", 20, -60, 25)], -120),
    "days have passed": ([("a", 0, -60, None)], -60),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT)
def test_the_next_run_builds_from_where_the_earliest_unfinished_one_began(
    warehouse: DuckDBWarehouse, case: str
) -> None:
    runs, expected = LEFT[case]
    for run_id, began, window, ended in runs:
        taken = leases.take(warehouse, run_id, minutes(window), minutes(began), timedelta(0))
        if ended is not None:
            leases.release(warehouse, leases.renew(warehouse, taken, minutes(ended), timedelta(0)), minutes(ended))

    mine = leases.take(warehouse, "me", minutes(7_000), minutes(10_000), QUARTER)

    found = leases.unfinished_from(warehouse, mine, longest=HOUR)
    assert found == (None if expected is None else minutes(expected))


# The same with clocks 400 days ahead: name, lease taken, whether with such a clock, window start, lease released.
WRONG: dict[str, tuple[list[tuple[str, float, bool, float, float | None]], float | None]] = {
    "a killed run after a clean one with a fast clock": ([("a", 0, True, -60, 5), ("b", 60, False, 0, None)], 0),
    "a killed run with a fast clock": ([("a", 0, False, -60, 5), ("b", 60, True, 0, None)], 0),
    "a killed run with a fast clock, and a clean one that may have overlapped": (
        [("a", 0, True, -60, None), ("b", 180, False, 60, 185)], -60,
    ),
    "a killed run with a fast clock, and a second clean one": (
        [("a", 0, True, -60, None), ("b", 180, False, 60, 185), ("c", 245, False, 180, 250)], None,
    ),
    "a run with a fast clock proves nothing about a later killed one": (
        [("a", 0, True, -60, 5), ("b", 60, False, 0, None), ("c", 90, False, 0, None)], 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_unfinished_follows_the_order_of_leases_where_a_clock_was_ahead(
    warehouse: DuckDBWarehouse, case: str
) -> None:
    runs, expected = WRONG[case]
    for run_id, began, is_ahead, window, ended in runs:
        wrong = AHEAD if is_ahead else timedelta()
        taken = leases.take(warehouse, run_id, minutes(window), minutes(began) + wrong, timedelta(0))
        if ended is not None:
            leases.release(warehouse, taken, minutes(ended) + wrong)

    mine = leases.take(warehouse, "me", minutes(300), minutes(300), QUARTER)

    found = leases.unfinished_from(warehouse, mine, longest=HOUR)
    assert found == (None if expected is None else minutes(expected))


def test_a_run_that_renewed_began_when_it_took_the_lease(warehouse: DuckDBWarehouse) -> None:
    killed = leases.take(warehouse, "a", minutes(-60), TEN, QUARTER)
    leases.renew(warehouse, killed, minutes(50), QUARTER)
    good = leases.take(warehouse, "b", minutes(-60), minutes(70), QUARTER)
    leases.release(warehouse, good, minutes(75))
    mine = leases.take(warehouse, "me", TEN, minutes(120), QUARTER)

    assert leases.unfinished_from(warehouse, mine, longest=HOUR) is None


# Runs with a lease, on a DuckDB file that admits several processes, as BigQuery does


@pytest.fixture
def shared(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(DuckDBWarehouse, "is_exclusive", False)
    return world


def run(world: World, hours: float, **parts: Any) -> Result:
    """A run that begins at the end of its window."""
    return world.run(hours, **{"now": lambda: at(hours), **parts})


def rows_of_leases(world: World) -> list[tuple[int, bool]]:
    """For each lease: the index of its run by order of appearance, and whether it was released."""
    rows = world.query("select run_id, is_released from ops.leases order by lease")
    order = list(dict.fromkeys(row["run_id"] for row in rows))
    return [(order.index(row["run_id"]), row["is_released"]) for row in rows]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    """The windows of all transforms."""
    windows: list[Window] = []
    initialise = Transform.__init__

    def remembering(self: Transform, *args: Any, **kwargs: Any) -> None:
        windows.append(args[3])
        initialise(self, *args, **kwargs)

    monkeypatch.setattr(Transform, "__init__", remembering)
    return windows


def test_a_run_that_ends_well_gives_the_lease_back(shared: World, built: list[Window]) -> None:
    run(shared, 1)
    run(shared, 2)

    assert rows_of_leases(shared) == [(0, False), (0, True), (1, False), (1, True)]
    assert [window.from_at for window in built] == [at(0), at(1)]


def fail(*_: object, **__: object) -> None:
    raise RetryableError("the warehouse is out of reach")


def test_after_a_run_that_failed_nobody_waits_and_the_next_builds_from_its_window(
    shared: World, built: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shared, 1)
    with monkeypatch.context() as patch:
        patch.setattr("jobs.hourly.deliver.sync", fail)
        with pytest.raises(RetryableError):
            run(shared, 2)

    run(shared, 2)  # nothing new to build except the audience
    run(shared, 3)

    # The second run failed after its commit, and the third had no window in which to rebuild that work.
    assert [(window.from_at, window.until_at) for window in built] == [
        (at(0), at(1)), (at(1), at(2)), (at(1), at(2)), (at(1), at(3)),
    ]  # fmt: skip
    assert rows_of_leases(shared)[2:] == [(1, False), (1, False), (2, False), (2, False), (3, False), (3, True)]


def test_a_run_that_dies_of_a_bug_keeps_nobody_waiting_either(shared: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("jobs.hourly.deliver.sync", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(shared, 1)

    assert run(shared, 1).sync.delivered > 0


def test_a_dry_run_does_not_make_good_what_another_left(shared: World, built: list[Window]) -> None:
    with closing(DuckDBWarehouse(shared.folder / "winback.duckdb")) as warehouse:
        warehouse.prepare()
        leases.take(warehouse, "killed", at(0), at(0.5), QUARTER)
    run(shared, 1)  # may have overlapped with the killed run
    with shared.context(now=lambda: at(2)) as context:
        hourly(context, at(2), dry_run=True)
    run(shared, 3)

    assert [window.from_at for window in built] == [at(0), at(0), at(0)]


def test_what_a_stale_run_overwrote_is_built_again_by_the_next(
    shared: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tables = ("intermediate.int_sessions", "marts.fct_unfinished_exits", "marts.crm_profiles")
    with closing(DuckDBWarehouse(shared.folder / "winback.duckdb")) as warehouse:
        warehouse.prepare()
        leases.take(warehouse, "stale", at(0), at(1.5), QUARTER)
        for table in tables:
            warehouse.connection.execute(f"create table raw.old_{table.split('.')[1]} as select * from {table}")
    run(shared, 2)
    untouched = tmp_path_factory.mktemp("untouched")
    shutil.copy(shared.folder / "winback.duckdb", untouched)
    shutil.copy(shared.folder / "crm.sqlite", untouched)
    shutil.copytree(shared.folder / "models", untouched / "models")
    with closing(DuckDBWarehouse(shared.folder / "winback.duckdb")) as warehouse:
        for table in tables:  # the stale run wakes up and writes its old state
            warehouse.connection.execute(f"delete from {table}")
            warehouse.connection.execute(f"insert into {table} select * from raw.old_{table.split('.')[1]}")

    run(shared, 3)
    other = World(untouched, shared.crm, shared.parsed)
    other.run(3, now=lambda: at(3))

    for table in tables:
        assert shared.query(f"from {table} order by all") == other.query(f"from {table} order by all"), table


def test_a_run_overtaken_amid_the_sync_stops_and_logs_what_the_crm_took(shared: World) -> None:
    clock, both_sent = [at(1)], threading.Barrier(2)
    destination = shared.destination()
    destination.max_batch = 2
    send = destination.send

    def overtaken(*args: Any) -> Any:
        """The CRM accepts two batches. Before either is logged, half an hour passes."""
        answer = send(*args)
        if both_sent.wait() == 0:
            with closing(DuckDBWarehouse(shared.folder / "winback.duckdb")) as warehouse:
                leases.take(warehouse, "other", at(1), at(1.4), HOUR)
            clock[0] = at(1.5)
        both_sent.wait()
        return answer

    destination.send = overtaken  # type: ignore[method-assign,assignment]
    destination.max_in_flight = 2
    with pytest.raises(RetryableError, match="took over"):
        shared.run(1, destination=destination, now=lambda: clock[0])

    logged = shared.query("select user_id from ops.deliveries where outcome = 'delivered' order by user_id")
    assert [row["user_id"] for row in logged] == sorted(shared.crm.store.profiles())
    assert len(logged) == 4
    assert shared.query("select * from ops.reports where epoch = 1") == []
