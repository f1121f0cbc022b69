"""A run whose clock was ahead: every command reports it, and repair-watermark loses no decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.errors import RetryableError, WatermarkAheadError
from core.progress import NullProgress
from jobs.context import JobContext
from jobs.doctor.run import check_history
from jobs.hourly.run import hourly
from jobs.models.dataset import examples
from jobs.models.train import train
from jobs.status import status
from jobs.transform.watermark import committed
from jobs.upkeep.audit import audit
from jobs.upkeep.backfill import backfill
from jobs.upkeep.load import load_files
from jobs.upkeep.nightly import nightly
from jobs.upkeep.repair_watermark import make_sync_plan, repair_watermark
from tests.support.builders.erase import told_world
from tests.support.environment import HISTORY_UNTIL, World, at
from tests.support.run_assertions import assert_crm_holds_the_desired_state, decisions, granted
from warehouse import ledger
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import RUNS, Table

AHEAD = timedelta(days=400)
LAG = timedelta(seconds=120)


@contextmanager
def opened(world: World) -> Iterator[DuckDBWarehouse]:
    with closing(DuckDBWarehouse(world.folder / "winback.duckdb")) as warehouse:
        yield warehouse


def reveal(world: World, hours: float) -> None:
    """Fill the raw tables with everything loaded by then, and nothing later."""
    with opened(world) as warehouse:
        execute = warehouse.connection.execute
        moment = at(hours).replace(tzinfo=None)
        for name, column in (
            ("app_events", "loaded_at"),
            ("users", "updated_at"),
            ("voucher_redemptions", "loaded_at"),
        ):
            execute(f"create table if not exists raw.later_{name} as select * from raw.{name} where false")
            execute(
                f"insert into raw.later_{name} select * from raw.{name} where {column} >= $moment", {"moment": moment}
            )
            execute(f"delete from raw.{name} where {column} >= $moment", {"moment": moment})
            execute(
                f"insert into raw.{name} select * from raw.later_{name} where {column} < $moment", {"moment": moment}
            )
            execute(f"delete from raw.later_{name} where {column} < $moment", {"moment": moment})


def run(world: World, hours: float, *, ahead: timedelta = timedelta()) -> Any:
    """Do an hour's run at that time, by a clock that may be ahead."""
    reveal(world, hours)
    with world.context(now=lambda: at(hours) + ahead) as context:
        return hourly(context)


def repair(world: World, hours: float, **options: Any) -> Any:
    with world.context(now=lambda: at(hours)) as context:
        return repair_watermark(context, **options)


@pytest.fixture(scope="module")
def one_hour(history: Path, parsed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one-hour")
    with told_world(history, folder, parsed) as world:
        run(world, 1)
    return folder


@pytest.fixture(scope="module")
def two_hours(one_hour: Path, parsed: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two-hours")
    with told_world(one_hour, folder, parsed) as world:
        run(world, 2, ahead=AHEAD)
    return folder


@pytest.fixture
def good(one_hour: Path, tmp_path: Path, parsed: dict[str, Any]) -> Iterator[World]:
    """A warehouse after one good hour."""
    with told_world(one_hour, tmp_path, parsed) as world:
        yield world


@pytest.fixture
def ahead(two_hours: Path, tmp_path: Path, parsed: dict[str, Any]) -> Iterator[World]:
    """A warehouse after one good hour, and one whose clock was 400 days ahead."""
    with told_world(two_hours, tmp_path, parsed) as world:
        yield world


COMMANDS: dict[str, Callable[[JobContext], Any]] = {
    "hourly": hourly,
    "a dry run": lambda context: hourly(context, dry_run=True),
    "hourly with a time": lambda context: hourly(context, at(3)),
    "nightly": nightly,
    "audit": lambda context: audit(context, 1),
    "examples": examples,
    "train": train,
    "backfill": lambda context: backfill(context, at(2)),
}


def test_every_command_that_works_from_the_watermark_refuses_one_beyond_now(ahead: World) -> None:
    before = ahead.query("select * from ops.runs order by epoch")
    for name, command in COMMANDS.items():
        with (
            ahead.context(now=lambda: at(3)) as context,
            pytest.raises(WatermarkAheadError, match=r"400 days ahead of now .* winback repair-watermark") as error,
        ):
            command(context)
        assert error.value.exit_code == 2, name
    assert ahead.query("select * from ops.runs order by epoch") == before
    assert ahead.query("select count(*) as n from ops.reports") == [{"n": 2}]


def test_load_names_the_remedy_and_stores_nothing(ahead: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.upkeep.load.utc_now", lambda: at(3))
    file = ahead.folder / "events.csv"
    file.write_text(
        "event_id,user_id,event_name,occurred_at,loaded_at\ne,u,app_opened,2026-05-20 18:30,2026-05-20 18:31\n"
    )
    with ahead.context() as context:
        settings = context.settings

    with pytest.raises(WatermarkAheadError, match="winback repair-watermark"):
        load_files(settings, {"events": [file]}, NullProgress())

    assert ahead.query("select count(*) as n from raw.app_events where user_id = 'u'") == [{"n": 0}]


def test_status_and_doctor_compare_the_watermark_with_now(ahead: World) -> None:
    with ahead.context(now=lambda: at(3)) as context:
        seen = status(context)
        [finding] = [one for one in check_history(context.warehouse, None, at(3)) if one.check == "watermark"]
    assert (seen.is_watermark_ahead, seen.is_watermark_stale) == (True, False)
    assert "400 days ahead of now" in str(seen.watermark_problem)
    assert finding.state == "failed"
    assert finding.do[1:] == ("winback repair-watermark", "winback run")


@pytest.mark.parametrize(("hours", "is_stale"), [(1, False), (2.9, False), (3, True), (100, True)])
def test_a_watermark_older_than_the_setting_is_told(good: World, hours: float, is_stale: bool) -> None:
    told: list[str] = []

    class Listening(NullProgress):
        def warn(self, what: str, **facts: Any) -> None:
            told.append(what)

    now = at(hours)
    with good.context(now=lambda: now, reporter=Listening()) as context:
        seen = status(context)
        checks = [one.state for one in check_history(context.warehouse, None, now, 7_200) if one.check == "watermark"]
        committed(context)
        never = replace(context, settings=context.settings.model_copy(update={"max_watermark_age_seconds": 0}))
        committed(never)
        assert not status(never).is_watermark_stale
    assert seen.is_watermark_stale == is_stale
    assert checks == (["warning"] if is_stale else [])
    assert ["The watermark is 2026-05-20 16:58 UTC" in what for what in told] == ([True] if is_stale else [])


def test_after_the_repair_the_hours_go_on_and_every_exit_is_decided_once(ahead: World) -> None:
    made = {row["exit_id"]: row for row in decisions(ahead)}
    vouchers = granted(ahead)
    assert ahead.query("select max(decided_at) as at from ops.decisions") == [{"at": at(2) + AHEAD - LAG}]

    repaired = repair(ahead, 3)
    again = {row["exit_id"]: row for row in decisions(ahead)}
    for hours in (3, 4, 5):
        run(ahead, hours)

    early = [row for row in made.values() if row["decided_at"] > at(3)]
    assert (repaired.watermark_before, repaired.watermark) == (at(2) + AHEAD - LAG, at(1) - LAG)
    assert (repaired.count_epochs_set_aside, repaired.count_decisions) == (1, len(early))
    assert len(early) > 0
    # The same decisions; only their time differs.
    own = {"run_id", "epoch", "decided_at", "decided_on", "valid_until"}
    assert [{k: v for k, v in row.items() if k not in own} for row in again.values()] == [
        {k: v for k, v in row.items() if k not in own} for row in made.values()
    ]
    assert {again[row["exit_id"]]["decided_at"] for row in early} == {at(3) - LAG}
    assert vouchers
    assert [run["window_until"] for run in ahead.query("select window_until from ops.runs order by epoch")] == [
        HISTORY_UNTIL, at(1) - LAG, at(2) + AHEAD - LAG, at(1) - LAG, at(3) - LAG, at(4) - LAG, at(5) - LAG,
    ]  # fmt: skip
    counts = Counter(row["exit_id"] for row in decisions(ahead))
    assert set(counts.values()) == {1}
    closed = "not is_dissolved and closed_at > $from and closed_at <= $until"
    with opened(ahead) as warehouse:
        exits = warehouse.query(
            f"select exit_id from marts.fct_unfinished_exits where {closed}",
            {"from": HISTORY_UNTIL, "until": at(5) - LAG},
        )
    assert set(exits.column("exit_id").to_pylist()) <= set(counts)
    assert_crm_holds_the_desired_state(ahead)


def test_a_voucher_of_the_wrong_clock_is_valid_for_as_long_as_it_was_meant_to_be(ahead: World) -> None:
    of_the_bad = f"decided_at > timestamp '{at(3):%Y-%m-%d}' + interval 1 day and is_eligible"
    users = [row["user_id"] for row in ahead.query(f"select user_id from ops.decisions where {of_the_bad}")]
    assert users

    repair(ahead, 3)
    run(ahead, 3)

    held = ahead.crm.store.profiles()
    kept = [user for user in users if held[user]["voucher_eligible"]]
    assert kept
    assert {held[user]["voucher_valid_until"] for user in kept} == {
        f"{at(3) - LAG + timedelta(days=7):%Y-%m-%dT%H:%M:%SZ}"
    }


def test_vouchers_that_the_wrong_clock_let_expire_are_given_back(good: World) -> None:
    before = set(granted(good))
    run(good, 2, ahead=AHEAD)
    assert before.isdisjoint(granted(good))

    repair(good, 3)
    run(good, 3)

    sql = (
        "select user_id from marts.crm_profiles where voucher_reason in ('finished', 'gave_up', 'closed', 'no_consent')"
    )
    ended = {row["user_id"] for row in good.query(sql)}
    assert before - ended <= set(granted(good))
    assert before - ended
    assert_crm_holds_the_desired_state(good)


def test_the_day_s_budget_counts_what_the_wrong_clock_granted(ahead: World) -> None:
    [row] = ahead.query("select count(*) as n from staging.stg_ops__decisions where is_eligible")
    repair(ahead, 3)
    reveal(ahead, 5)
    with ahead.context(now=lambda: at(5)) as context:
        budget = context.policy.voucher.model_copy(update={"budget_per_day": row["n"]})
        spent = replace(context, policy=context.policy.model_copy(update={"voucher": budget}))
        result = hourly(spent)
    assert result.scoring is not None
    assert result.scoring.eligible == 0
    assert result.scoring.eligibility_reasons["budget_day"] > 0


def test_a_dry_run_says_the_same_and_changes_nothing(ahead: World) -> None:
    def tables() -> list[Any]:
        return [ahead.query(f"select * from ops.{name} order by all") for name in ("runs", "decisions", "reports")]

    before = tables()
    planned = repair(ahead, 3, dry_run=True)
    assert tables() == before

    assert replace(planned, epoch=3, is_dry_run=False) == repair(ahead, 3)
    again = repair(ahead, 3)
    assert (again.is_needed, again.watermark) == (False, at(1) - LAG)


def test_a_repair_killed_before_its_commit_is_done_by_the_next(ahead: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = decisions(ahead)
    with monkeypatch.context() as patch:
        patch.setattr("warehouse.ledger.commit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            repair(ahead, 3)
    assert decisions(ahead) == made

    repair(ahead, 3)
    run(ahead, 3)

    assert set(Counter(row["exit_id"] for row in decisions(ahead)).values()) == {1}
    assert {row["exit_id"] for row in made} <= {row["exit_id"] for row in decisions(ahead)}


def test_the_repair_of_a_run_killed_after_its_commit_loses_none_of_its_decisions(
    good: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("jobs.hourly.run.deliver", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(good, 2, ahead=AHEAD)
    of_the_bad = {row["user_id"] for row in decisions(good) if row["is_eligible"] and row["decided_at"] > at(3)}
    assert of_the_bad

    repair(good, 3)
    run(good, 3)

    sql = "select user_id from marts.crm_profiles where last_granted_at is not null"
    assert of_the_bad <= {row["user_id"] for row in good.query(sql)}
    assert_crm_holds_the_desired_state(good)


def test_several_hours_of_a_wrong_clock_are_set_aside_at_once(ahead: World) -> None:
    run(ahead, 3, ahead=AHEAD)
    made = {row["exit_id"] for row in decisions(ahead)}

    assert repair(ahead, 4).count_epochs_set_aside == 2
    run(ahead, 4)

    counts = Counter(row["exit_id"] for row in decisions(ahead))
    assert made <= set(counts)
    assert set(counts.values()) == {1}


def test_a_repair_by_a_clock_that_was_still_ahead_is_repaired_in_turn(ahead: World) -> None:
    made = {row["exit_id"] for row in decisions(ahead)}
    repair(ahead, 2 + 300 * 24)
    with ahead.context(now=lambda: at(3)) as context, pytest.raises(WatermarkAheadError, match="put back at"):
        hourly(context)

    repaired = repair(ahead, 3)
    run(ahead, 3)

    assert repaired.watermark == at(1) - LAG
    counts = Counter(row["exit_id"] for row in decisions(ahead))
    assert made <= set(counts)
    assert set(counts.values()) == {1}
    assert max(row["decided_at"] for row in decisions(ahead)) <= at(3)


def test_a_backfill_that_lies_ahead_is_built_again(world: World) -> None:
    reveal(world, 0)
    with opened(world) as warehouse:
        warehouse.connection.execute("delete from ops.runs")
    with world.context(now=lambda: at(0) + AHEAD) as context:
        backfill(context, at(0) + AHEAD)

    repaired = repair(world, 1)
    results = [run(world, hours) for hours in (1, 2)]

    assert (repaired.is_history_built_again, repaired.watermark) == (True, at(1) - LAG)
    assert results[1].scoring is not None
    assert results[1].scoring.exits > 0
    closed = world.query("select min(closed_at) as at from marts.fct_scoring_candidates")
    assert closed[0]["at"] > at(1) - LAG


def test_a_run_that_commits_meanwhile_is_not_overwritten(ahead: World) -> None:
    class Overtaken:
        """A warehouse in which another run commits just before this one."""

        def __init__(self, warehouse: Any) -> None:
            self.warehouse = warehouse

        def __getattr__(self, name: str) -> Any:
            return getattr(self.warehouse, name)

        def append_once(self, table: Table, row: dict[str, Any]) -> bool:
            assert table is RUNS
            assert self.warehouse.append_once(table, row | {"run_id": "another", "kind": "hourly"})
            return bool(self.warehouse.append_once(table, row))

    with ahead.context(now=lambda: at(3)) as context, pytest.raises(RetryableError, match="Another run committed"):
        repair_watermark(replace(context, warehouse=Overtaken(context.warehouse)))
    assert ahead.query("select distinct run_id from ops.decisions where run_id like '%repair%'") == []


def test_what_a_person_erased_is_not_written_again(ahead: World) -> None:
    user = next(row["user_id"] for row in decisions(ahead) if row["decided_at"] > at(3))
    with opened(ahead) as warehouse:
        warehouse.connection.execute(
            "insert into ops.erasures (erasure_id, user_hash, requested_at, recorded_at, step, outcome) "
            f"select 'e', sha256('{user}'), now(), now(), 'tombstone', 'written'"
        )
    repair(ahead, 3)
    assert ahead.query(
        f"select count(*) as n from ops.decisions where run_id like '%repair%' and user_id = '{user}'"
    ) == [{"n": 0}]


def epoch(number: int, until: datetime, kind: str = "hourly", committed: datetime | None = None) -> ledger.Epoch:
    return ledger.Epoch(number, f"r{number}", kind, until, until, 0, 0, 0, 0, committed or until)


NOW = at(10)
PLANS: dict[str, tuple[list[ledger.Epoch], list[int], datetime, datetime]] = {
    "an hour ahead": ([epoch(0, at(1), "backfill"), epoch(1, at(11))], [1], at(1), at(10) - LAG),
    "just now is not ahead": ([epoch(0, at(1), "backfill"), epoch(1, NOW)], [], NOW, NOW + timedelta(microseconds=1)),
    "a minute ahead of a window that ended now": (
        [epoch(0, at(10), "backfill"), epoch(1, at(10) + timedelta(minutes=1))],
        [1], at(10), at(10) + timedelta(microseconds=1),
    ),
    "a repair that is ahead": (
        [epoch(0, at(1), "backfill"), epoch(5, at(2), ledger.REPAIR, committed=at(20))], [5], at(1), at(10) - LAG,
    ),
    "the backfill too": ([epoch(0, at(90), "backfill"), epoch(1, at(91))], [0, 1], at(10) - LAG, at(10) - LAG),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANS)
def test_the_plan_sets_aside_what_is_ahead_and_nothing_else(case: str) -> None:
    epochs, aside, watermark, decided_at = PLANS[case]
    plan = make_sync_plan(epochs, NOW, LAG)
    assert [one.epoch for one in plan.aside] == aside
    assert plan.watermark == watermark
    assert timedelta() <= plan.decided_at - decided_at <= timedelta(microseconds=1)
