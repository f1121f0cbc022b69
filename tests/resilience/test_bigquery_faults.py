"""BigQuery faults during a run: nothing is half visible, and the next run ends like an undisturbed one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from core.errors import ContractError, RetryableError, WinbackError
from tests.support.bigquery_emulator.process import Emulator
from tests.support.bigquery_environment import IS_ALL, BigQueryWorld, differences
from tests.support.environment import HISTORY_UNTIL, World

# Rows that must be equal after any number of failed runs; the runs' own reports may differ.
TABLES = {
    "ops.runs": "true",
    "marts.crm_profiles": "true",
    "marts.crm_acknowledged": "true",
    "marts.crm_pending": "true",
    "marts.fct_arrivals": "true",
    "marts.fct_exit_features_logged": "exited_on >= date '1970-01-01'",
    "staging.stg_ops__decisions": "decided_at >= timestamp '1970-01-01 00:00:00'",
}
WINDOW = timedelta(hours=6)
# Requests of a run to BigQuery, by place: dbt's and our own statements, and load jobs.
PLACES = {
    "features": ('"model.winback.int_sessions"', "merge into"),
    "scoring": ("fct_scoring_candidates", "where skip_reason is null"),
    "decisions": ("load ", "_ops.decisions as "),
    "commit": ("load ", "_ops.runs as "),
    "audience": ('"model.winback.crm_profiles"', "merge into"),
    "log": ("load ", "_ops.deliveries as "),
    "report": ("load ", "_ops.reports as "),
}
QUOTA = {
    "status": 403,
    "reason": "quotaExceeded",
    "message": "Quota exceeded: Your project exceeded quota for jane@example.com",
}
DENIED = {
    "status": 403,
    "reason": "accessDenied",
    "message": "Access Denied: User jane@example.com lacks bigquery.jobs.create",
}
COSTLY = {
    "status": 400,
    "reason": "bytesBilledLimitExceeded",
    "message": "Query exceeded limit for bytes billed: 1. 2 required.",
}
MISSING = {"status": 404, "reason": "notFound", "message": "Not found: Dataset some-project:winback_marts"}


@dataclass(frozen=True)
class Fault:
    """A fault at a place: BigQuery dies before or after it, or refuses. With the expected error and message."""

    place: str
    happens: str | dict[str, Any]
    error: type[WinbackError]
    words: str

    def __str__(self) -> str:
        return f"{self.place} {self.happens if isinstance(self.happens, str) else self.happens['reason']}"

    def arrange(self, emulator: Emulator) -> None:
        def match(text: str) -> bool:
            return all(part in text for part in PLACES[self.place])

        if isinstance(self.happens, dict):
            emulator.refuse(match, self.happens, times=1_000)
        else:
            when = {"dies before": emulator.before, "dies after": emulator.after}[self.happens]
            when(match, emulator.kill)


def dies(place: str, when: str = "before") -> Fault:
    return Fault(place, f"dies {when}", RetryableError, "could not be reached")


def quota(place: str) -> Fault:
    return Fault(place, QUOTA, RetryableError, "quota is used up")


def denied(place: str) -> Fault:
    return Fault(place, DENIED, ContractError, "because a permission is missing")


def costly(place: str) -> Fault:
    return Fault(place, COSTLY, ContractError, "WINBACK_BIGQUERY_MAX_BYTES")


def missing(place: str) -> Fault:
    return Fault(place, MISSING, ContractError, "dataset or table is missing")


Seen = dict[str, Any]


def seen(world: World) -> Seen:
    """The state visible to others."""
    return {
        "epochs": sorted(row["epoch"] for row in world.query("select epoch from ops.runs")),
        "decisions": world.query(
            "select exit_id, run_id, is_eligible, user_id from staging.stg_ops__decisions order by exit_id"
        ),
        "crm": world.crm.store.profiles(),
    }


def assert_nothing_half_visible(before: Seen, after: Seen) -> None:
    """Check that a run counts completely or not at all, and that the CRM has no voucher without a decision."""
    is_committed = after["epochs"] != before["epochs"]
    new = [row for row in after["decisions"] if row not in before["decisions"]]
    assert [row for row in before["decisions"] if row not in after["decisions"]] == []
    assert bool(new) == is_committed
    if not is_committed:
        assert after["crm"] == before["crm"]
    granted = {row["user_id"] for row in after["decisions"] if row["is_eligible"]}
    assert {user for user, held in after["crm"].items() if held.get("voucher_eligible")} <= granted


def hours_of_the_next_window(world: World) -> float:
    (row,) = world.query("select max(window_until) as watermark from ops.runs")
    return float((row["watermark"] + WINDOW - HISTORY_UNTIL) / timedelta(hours=1))


@pytest.fixture
def twins_in_peace(
    twin_worlds: tuple[World, BigQueryWorld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[World, BigQueryWorld]]:
    # Data tests are half of an hour's statements, and are not separate places.
    monkeypatch.setenv("DBT_EXCLUDE_RESOURCE_TYPES", "test")
    yield twin_worlds
    emulator.forget()
    emulator.restart()


# In the order of a run: the next run does not repeat finished work.
GROUPS = {
    "before the commit": [
        dies("features"), quota("features"), dies("scoring"), costly("scoring"), dies("decisions"), denied("decisions"),
    ],
    "at the commit": [dies("commit"), missing("commit"), dies("commit", "after")],
    "after the commit": [
        dies("audience"), denied("audience"), dies("log"), quota("log"), dies("report"), missing("report"),
    ],
}  # fmt: skip
# One for each part of a run; the rest is left to FAULTS=all, which is `make faults-test`. test_crash.py kills a run at its
# builds, and test_bigquery_errors.py holds what each refusal of BigQuery becomes.
SHORT = {"one in each part": [dies("decisions"), dies("commit", "after"), dies("log")]}


@pytest.mark.parametrize("faults", (GROUPS if IS_ALL else SHORT).values(), ids=(GROUPS if IS_ALL else SHORT).keys())
def test_a_run_that_bigquery_fails_is_finished_by_the_next(
    twins_in_peace: tuple[World, BigQueryWorld], emulator: Emulator, faults: list[Fault]
) -> None:
    undisturbed, disturbed = twins_in_peace
    hours = hours_of_the_next_window(undisturbed)
    undisturbed.run(hours)
    before = seen(disturbed)

    for fault in faults:
        fault.arrange(emulator)
        with pytest.raises(WinbackError) as told:
            disturbed.run(hours)
        emulator.forget()
        if isinstance(fault.happens, str):
            emulator.restart()
        assert (type(told.value), fault.words in str(told.value)) == (fault.error, True), f"{fault}: {told.value}"
        assert "jane@example.com" not in str(told.value)
        after = seen(disturbed)
        assert_nothing_half_visible(before, after)
        is_after_commit = fault.place in ("audience", "log", "report") or fault.happens == "dies after"
        assert (after["epochs"] != before["epochs"]) == is_after_commit, fault

    disturbed.run(hours)

    assert differences(undisturbed, disturbed, TABLES) == {}


def test_a_commit_whose_reply_is_lost_is_no_fault_at_all(
    twins_in_peace: tuple[World, BigQueryWorld], emulator: Emulator
) -> None:
    undisturbed, disturbed = twins_in_peace
    hours = hours_of_the_next_window(undisturbed)
    undisturbed.run(hours)
    emulator.lose_reply(lambda text: all(part in text for part in PLACES["commit"]))

    result = disturbed.run(hours)

    assert result.sync.delivered == result.sync.differing - sum(result.sync.suppressed.values()) > 0
    assert differences(undisturbed, disturbed, TABLES) == {}
