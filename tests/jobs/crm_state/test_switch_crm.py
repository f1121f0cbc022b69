"""The tables hold the state of one CRM: for another one every run refuses, until `winback switch-crm` has been run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner

from core.errors import ContractError
from jobs.cli.app import cli
from jobs.crm_state.switch import SwitchedCrm
from jobs.doctor.run import check_history
from jobs.hourly.run import hourly
from jobs.output.upkeep import question_of_switch
from jobs.transform.dbt import Transform
from jobs.upkeep import dead_letters
from jobs.upkeep.migrations import _build
from tests.support.builders.crms import CRMS, NEW, OLD, braze_nowhere, second_crm, switched
from tests.support.builders.erase import eligible, erased
from tests.support.crm.local_crm import fault
from tests.support.environment import API_KEY, World, at
from tests.support.run_assertions import assert_crm_holds_the_desired_state, restore_crm, take_crm_down
from warehouse.duckdb.warehouse import DuckDBWarehouse

REFUSED = re.escape(
    f"The tables hold what the CRM {OLD} acknowledged, and the settings name {NEW}. Nothing was built, sent or erased. "
    "If the settings are wrong, correct WINBACK_CRM and WINBACK_CRM_URL. If they are right: winback switch-crm "
    "If it is the same CRM at another address, with all its data: winback switch-crm --keep-state"
)
AUDIENCE = "select user_id from marts.crm_profiles where churn_probability is not null order by user_id"
COUNTS = "select (select count(*) from ops.runs) as runs, (select count(*) from ops.deliveries) as deliveries"


def held(world: World) -> list[str]:
    return sorted(world.crm.store.profiles())


def audience(world: World) -> list[str]:
    return [row["user_id"] for row in world.query(AUDIENCE)]


def numbers(world: World) -> list[dict[str, Any]]:
    return world.query("select distinct crm_number from ops.deliveries order by crm_number")


def test_the_first_run_records_its_crm_and_a_dry_run_does_not(world: World) -> None:
    with world.context(now=lambda: at(1)) as context:
        hourly(context, at(1), dry_run=True)
    assert world.query(CRMS) == []

    world.run(1)

    assert world.query(CRMS) == [{"number": 0, "crm": OLD, "state_from": 0, "kind": "first"}]
    assert numbers(world) == [{"crm_number": 0}]


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_run_with_another_crm_is_refused_before_it_builds_or_sends(told: World, dry_run: bool) -> None:
    before = told.query(COUNTS)
    with (
        second_crm(told) as other,
        mock.patch("jobs.transform.dbt.Transform.build") as build,
        pytest.raises(ContractError, match=REFUSED) as refused,
        other.context(crm=NEW, now=lambda: at(7)) as context,
    ):
        hourly(context, at(7), dry_run=dry_run)

    assert refused.value.exit_code == 2
    assert build.call_count == 0
    assert told.query(COUNTS) == before
    assert [row["crm"] for row in told.query(CRMS)] == [OLD]


def test_a_run_with_the_old_crm_goes_on_after_one_that_was_refused(told: World) -> None:
    with second_crm(told) as other, pytest.raises(ContractError, match=REFUSED):
        other.run(7, crm=NEW)

    told.run(7)

    assert_crm_holds_the_desired_state(told)


def test_after_the_switch_the_whole_audience_is_sent_once_and_the_history_stays(told: World) -> None:
    deliveries, known = told.query("select * from ops.deliveries order by all"), held(told)

    answer = switched(told)

    assert (answer.before, answer.now, answer.is_needed, answer.count_users) == (OLD, NEW, True, len(known))
    assert told.query("select * from ops.deliveries order by all") == deliveries
    with second_crm(told) as other:
        other.run(7, crm=NEW)
        assert held(other) == audience(told) != []
        assert_crm_holds_the_desired_state(other)
        again = other.run(7, crm=NEW)
        assert (again.sync.requests, again.sync.delivered) == (0, 0)
        later = other.run(8, crm=NEW)
        assert later.sync.delivered < len(audience(told))
        assert_crm_holds_the_desired_state(other)
    assert held(told) == known
    assert numbers(told) == [{"crm_number": 0}, {"crm_number": 2}]


def test_the_audience_is_sent_once_in_a_run_without_a_new_window(told: World) -> None:
    """The fold reads the deliveries of the last epoch again, and those went to the old CRM."""
    switched(told)
    with second_crm(told) as other:
        other.run(6, crm=NEW)
        assert held(other) == audience(told)
        assert other.run(6, crm=NEW).sync.requests == 0


def test_a_rebuild_of_what_was_acknowledged_does_not_count_the_old_crm(told: World) -> None:
    switched(told)
    with second_crm(told) as other:
        other.run(7, crm=NEW)
        before = told.query("select * from marts.crm_acknowledged order by user_id")
        with other.context(crm=NEW) as context:
            _build("acknowledged", full_refresh=True)(context)
    assert told.query("select * from marts.crm_acknowledged order by user_id") == before


def test_back_to_the_first_crm_is_another_switch_and_sends_the_audience_there(told: World) -> None:
    switched(told)
    with second_crm(told) as other:
        other.run(7, crm=NEW)

    switched(told, OLD)
    result = told.run(8)

    assert result.sync.delivered == len(audience(told))
    assert_crm_holds_the_desired_state(told)


def test_a_second_switch_does_nothing(told: World) -> None:
    switched(told)
    rows = told.query(CRMS)

    again = switched(told)

    assert not again.is_needed
    assert (
        told.query(CRMS)
        == rows
        == [
            {"number": 0, "crm": OLD, "state_from": 0, "kind": "first"},
            {"number": 1, "crm": NEW, "state_from": 1, "kind": "forgetting"},
            {"number": 2, "crm": NEW, "state_from": 1, "kind": "switched"},
        ]
    )


def test_a_forced_switch_sends_the_whole_audience_to_the_same_crm(told: World) -> None:
    """Another account at the same host has the same identity."""
    with second_crm(told) as other:
        switched(told, OLD, force=True)
        other.run(7)
        assert held(other) == audience(told)
        answer = erased(other, eligible(other))
    assert not [note for note in answer.stays if "served until" in note]


def test_a_crm_that_has_moved_gets_changes_alone(told: World) -> None:
    answer = switched(told, keep_state=True)
    assert (answer.is_state_kept, answer.count_users) == (True, len(held(told)))

    again = told.run(6, crm=NEW)
    result = told.run(7, crm=NEW)

    assert again.sync.requests == 0
    assert 0 < result.sync.delivered < len(audience(told))
    assert_crm_holds_the_desired_state(told)
    assert told.query(CRMS)[-1] == {"number": 1, "crm": NEW, "state_from": 0, "kind": "moved"}


def test_the_local_crm_on_another_port_is_the_same_crm(told: World) -> None:
    with second_crm(told) as other:
        assert other.crm.url != told.crm.url
        other.run(7)
    assert [row["crm"] for row in told.query(CRMS)] == [OLD]


def test_a_crm_that_has_answered_about_no_user_is_replaced_without_a_question(world: World) -> None:
    """The first address was a mistake: nothing answered there."""
    for hours in (1, 2):  # the second run takes the users of the first for users in doubt
        world.run(hours, destination=braze_nowhere(), crm="braze no-such-host.example.com")

    world.run(3, crm=NEW)

    assert [(row["number"], row["kind"], row["state_from"]) for row in world.query(CRMS)] == [
        (0, "first", 0),
        (1, "replaced", 1),
    ]
    assert_crm_holds_the_desired_state(world)


def test_a_delivery_of_a_run_that_was_killed_counts_as_an_answer(world: World) -> None:
    with (
        mock.patch("jobs.hourly.deliver.re_erase_recent", side_effect=KeyboardInterrupt),
        mock.patch("jobs.transform.dbt.Transform.build", autospec=True, side_effect=all_but_the_last_fold()),
        pytest.raises(KeyboardInterrupt),
    ):
        world.run(6)
    assert world.query("select count(*) as n from marts.crm_acknowledged") == [{"n": 0}]

    with pytest.raises(ContractError, match=REFUSED):
        world.run(7, crm=NEW)


def all_but_the_last_fold() -> Callable[..., None]:
    build = Transform.build

    def some(transform: Transform, selector: str, **options: Any) -> None:
        if selector != "acknowledged":
            build(transform, selector, **options)

    return some


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


@contextmanager
def killed_at(place: int) -> Iterator[None]:
    """Die before (even) or after (odd) each of the statements that change something."""
    passed = 0

    def near(act: Callable[..., Any]) -> Callable[..., Any]:
        def dangerous(*args: Any, **kwargs: Any) -> Any:
            nonlocal passed
            passed += 1
            if place == 2 * passed - 2:
                raise Killed
            answer = act(*args, **kwargs)
            if place == 2 * passed - 1:
                raise Killed
            return answer

        return dangerous

    with (
        mock.patch.object(DuckDBWarehouse, "append_once", near(DuckDBWarehouse.append_once)),
        mock.patch.object(DuckDBWarehouse, "change", near(DuckDBWarehouse.change)),
    ):
        yield


@pytest.mark.parametrize("place", range(6))
def test_a_switch_that_is_killed_anywhere_is_completed_by_the_same_command(told: World, place: int) -> None:
    with pytest.raises(Killed), killed_at(place):
        switched(told)
    with second_crm(told) as other:
        if place < 5:
            with pytest.raises(ContractError, match="winback switch-crm"):
                other.run(7, crm=NEW)
        if 0 < place < 5:
            # The old one's state may be lost: with the old CRM no run goes on either.
            with pytest.raises(ContractError, match="was interrupted"):
                told.run(7)
            with pytest.raises(ContractError, match="cannot be kept"):
                switched(told, keep_state=True)

        switched(told)

        other.run(7, crm=NEW)
        assert held(other) == audience(told)
        assert other.run(7, crm=NEW).sync.requests == 0


def test_an_interrupted_switch_may_go_back_to_the_old_crm(told: World) -> None:
    with pytest.raises(Killed), killed_at(3):
        switched(told)

    switched(told, OLD)

    assert told.run(7).sync.delivered == len(audience(told))
    assert_crm_holds_the_desired_state(told)


def test_a_warehouse_without_a_record_takes_the_crm_of_its_next_run(told: World) -> None:
    """As an earlier version left it: rows of deliveries have no number, and `ops.crms` is empty."""
    forget_the_record(told)

    told.run(7)

    assert_crm_holds_the_desired_state(told)
    assert [row["crm"] for row in told.query(CRMS)] == [OLD]
    assert numbers(told) == [{"crm_number": 0}, {"crm_number": None}]
    assert told.run(7).sync.requests == 0


def test_a_warehouse_without_a_record_can_be_switched_before_its_next_run(told: World) -> None:
    forget_the_record(told)

    assert switched(told).before is None

    with second_crm(told) as other:
        other.run(7, crm=NEW)
        assert held(other) == audience(told)


def forget_the_record(world: World) -> None:
    with world.context() as context:
        context.warehouse.change("delete from ops.crms where true")
        context.warehouse.change("update ops.deliveries set crm_number = null where true")


def test_an_erasure_with_another_crm_is_refused_and_leaves_no_trace(told: World) -> None:
    user = eligible(told)
    with second_crm(told) as other, pytest.raises(ContractError, match=REFUSED):
        erased(other, user, crm=NEW)
    assert told.query("select * from ops.erasures") == []
    assert told.crm.store.profile(user)


def test_an_erasure_after_the_switch_says_which_crm_may_still_hold_the_user(told: World) -> None:
    user = eligible(told)
    switched(told, now=lambda: at(7))
    with second_crm(told) as other:
        answer = erased(other, user, crm=NEW)
    note = f"{OLD}: served until 2026-05-20, may still hold the user, and winback erase does not reach it. Delete the user there."
    assert note in answer.stays
    assert told.crm.store.profile(user)


def test_a_switch_says_how_many_erasures_the_old_crm_has_not_confirmed(told: World) -> None:
    take_crm_down(told)
    erased(told, eligible(told))
    restore_crm(told)
    assert switched(told).count_erasures == 1


def test_dead_letters_of_the_old_crm_are_gone_after_the_switch_and_not_retried_before(told: World) -> None:
    user = audience(told)[0]
    told.append_event(user, "filing_submitted", at(6.2), at(6.6))
    fault(told.crm, kind="row_error", external_ids=[user])
    told.run(7)
    with told.context(crm=NEW) as context, pytest.raises(ContractError, match=REFUSED):
        dead_letters.retry(context)

    switched(told)

    with told.context(crm=NEW) as context:
        assert dead_letters.listed(context) == []


def test_a_retry_of_dead_letters_counts_for_the_crm_that_rejected_them(told: World) -> None:
    switched(told)
    with second_crm(told) as other:
        user = audience(told)[0]
        fault(other.crm, kind="row_error", external_ids=[user])
        other.run(7, crm=NEW)
        restore_crm(other)
        with other.context(crm=NEW, now=lambda: at(7)) as context:
            assert dead_letters.retry(context) == 1
        other.run(8, crm=NEW)
        assert user in held(other)


def test_the_doctor_names_both_crms_and_the_remedy(told: World) -> None:
    with told.context() as context:
        assert [f.check for f in check_history(context.warehouse, None, at(7), crm=OLD)] == ["history", "profiles"]
        found = next(f for f in check_history(context.warehouse, None, at(7), crm=NEW) if f.state == "failed")
    assert found.check == "state of the CRM"
    assert found.says == f"The tables hold what the CRM {OLD} acknowledged, and the settings name {NEW}."
    assert [line for line in found.do if line.startswith("winback")] == [
        "winback switch-crm",
        "winback switch-crm --keep-state",
    ]


def test_a_switch_before_the_backfill_says_that_history_is_missing(tmp_path: Path, world: World) -> None:
    empty = World(tmp_path / "empty", world.crm, world.parsed)
    empty.folder.mkdir()
    DuckDBWarehouse(empty.folder / "winback.duckdb").close()
    with pytest.raises(ContractError, match="The warehouse has no history yet"):
        switched(empty)


def winback(world: World, *arguments: str, text: str | None = None) -> Any:
    environment = {
        "WINBACK_WAREHOUSE": f"duckdb:///{world.folder / 'winback.duckdb'}",
        "WINBACK_CRM": "hubspot",
        "WINBACK_CRM_URL": world.crm.url,
        "WINBACK_CRM_API_KEY": API_KEY,
    }
    return CliRunner().invoke(cli, ["switch-crm", *arguments], env=environment, input=text)


def test_the_command_asks_on_a_terminal_alone_and_leaves_a_record(told: World) -> None:
    unasked = winback(told)
    assert (unasked.exit_code, "Pass --yes" in unasked.output) == (2, True)
    count = len(held(told))

    done = winback(told, "--yes", "--json")
    again = winback(told, "--yes")

    assert json.loads(done.stdout) == {
        "before": "braze local",
        "now": "hubspot local",
        "is_needed": True,
        "is_state_kept": False,
        "count_users": count,
        "count_erasures": 0,
    }
    assert "serve hubspot local already: nothing to do" in again.stdout


def test_the_command_says_what_is_forgotten_and_what_the_old_crm_keeps(told: World) -> None:
    answer = winback(told, "--yes")
    assert answer.exit_code == 0
    text = " ".join(answer.stdout.split())
    assert "braze local -> hubspot local" in text
    assert f"Forgot what the old CRM acknowledged of {len(held(told)):,} users." in text
    assert "braze local keeps what it holds: stop its campaigns" in text
    assert "winback erase does not reach it" in text


def test_the_question_names_both_crms_and_counts_users_and_open_erasures() -> None:
    plan = SwitchedCrm(OLD, NEW, is_needed=True, is_state_kept=False, count_users=12_345, count_erasures=2)
    text = question_of_switch(plan)
    assert f"This forgets what {OLD} acknowledged of 12,345 users." in text
    assert f"sends the whole audience to {NEW}" in text
    assert "It has not confirmed the erasure of 2 users." in text
    kept = question_of_switch(replace(plan, is_state_kept=True))
    assert kept.startswith(f"Is {NEW} the same CRM as {OLD}, with all its data?")
