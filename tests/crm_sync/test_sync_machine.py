"""Properties of the sync under any order of events in users, syncs, the CRM and the network.

`SYNC_EXAMPLES=2000 pytest tests/crm_sync/test_sync_machine.py` tries 2,000 new examples each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from crm_sync.destination import Destination
from crm_sync.destinations.braze import Braze, BrazeOptions
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.destinations.hubspot.client import HubSpot, HubSpotOptions
from sandbox.local_crm.server import LocalCrm
from tests.support.sync.hours import Hours
from tests.support.sync.recorder import Trouble
from tests.support.sync.reference_model import Oracle
from tests.support.sync.tables import SyncTables

EXAMPLES = int(os.environ.get("SYNC_EXAMPLES", "0"))
KEY = "key-of-the-machine"
MAX_BATCH = 2
BUDGET = RetryBudget(seconds=1.0, first_wait_seconds=0.4)  # on a clock that only waits advance
CRMS: dict[str, Callable[[str], Destination]] = {
    "braze": lambda url: Braze(url, KEY, BrazeOptions(max_batch=MAX_BATCH, limits=()), BUDGET),
    "hubspot": lambda url: HubSpot(url, KEY, HubSpotOptions(max_batch=MAX_BATCH, limits=()), BUDGET),
}
FEW = {"braze": 30, "hubspot": 10}

USERS = [f"u{number}" for number in range(6)]
PLACES = ["before the request", "after the reply", "before an append", "after an append"]
# The batch with the fault: six users in batches of two rarely make more than three batches.
AT, ROWS, FOLDED = st.sampled_from([0, 0, 1, 1, 2]), st.sampled_from([1, 3, 5_000]), st.booleans()
SOME = st.one_of(st.just(USERS), st.lists(st.sampled_from(USERS), min_size=1, unique=True))


def trouble(kind: str, **more: Any) -> st.SearchStrategy[Trouble]:
    return st.builds(Trouble, st.just(kind), at=AT, rows_per_append=ROWS, is_folded=FOLDED, **more)


CLEAN = st.builds(Trouble, in_flight=st.integers(1, 3), rows_per_append=ROWS, is_folded=FOLDED)
TROUBLES = st.one_of(
    trouble("row_errors", users=st.lists(st.sampled_from(USERS), min_size=1, unique=True).map(tuple)),
    trouble("refused", times=st.integers(1, 3)),
    trouble("unavailable"),
    trouble("lost"),
    trouble("lost for good"),
    trouble("garbled"),
    trouble("duplicated"),
    trouble("killed", place=st.sampled_from(PLACES)),
    trouble("killed", place=st.sampled_from(PLACES)),
    trouble("stopped"),
    trouble("deadline"),
    trouble("overtaken"),
)


def scored(hours: Hours, user: str, tenths: int, reasons: str | None, *, is_granted: bool) -> dict[str, Any]:
    """The row of crm_profiles for a user with a decision."""
    return {
        "churn_probability": tenths / 10,
        "churn_risk_band": "high" if tenths > 6 else "medium" if tenths > 3 else "low",
        "churn_reasons": reasons,
        "churn_scored_at": hours.now(),
        "churn_model_version": [None, "m1", "m2"][tenths % 3],  # not clearable, and may be null
        "is_voucher_eligible": is_granted,
        "voucher_reason": "granted" if is_granted else "budget_run",
        "voucher_valid_until": hours.now() + timedelta(days=7) if is_granted else None,
        "experiment_arm": "holdout" if user == "u0" else "treatment",
    }


def unscored(before: dict[str, Any], reason: str) -> dict[str, Any]:
    """The row of crm_profiles for a user who must not be scored any more."""
    gone = dict.fromkeys(("churn_probability", "churn_risk_band", "churn_reasons", "voucher_valid_until"))
    return before | gone | {"is_voucher_eligible": False, "voucher_reason": reason}


class Machine(RuleBasedStateMachine):
    """Users with their journeys, and syncs with their faults. The first dictionary holds fates after the audience build."""

    def __init__(self, hours: Hours) -> None:
        super().__init__()
        self.hours = hours
        self.news: dict[str, str] = {}
        self.desired: dict[str, dict[str, Any]] = {}
        self.before: dict[str, dict[str, Any]] = {}

    @initialize(granted=SOME, withdrawn=SOME)
    def begin(self, granted: list[str], withdrawn: list[str]) -> None:
        """Start with all users in the CRM; some vouchers must be withdrawn, others granted."""
        self.hours.begin()
        self.oracle = Oracle(self.hours)
        for user in USERS:
            self.want(user, scored(self.hours, user, 5, None, is_granted=user in granted))
        self.sync(Trouble())
        self.withdraw(withdrawn, "redeemed")
        self.score([user for user in USERS if user not in granted], 8, None, is_granted=True)

    def want(self, user: str, state: dict[str, Any], *, is_erased: bool = False) -> None:
        self.before[user], self.desired[user] = self.desired.get(user, state), state
        self.hours.tables.desire(user, is_erased=is_erased, **state)

    @rule(
        users=SOME,
        tenths=st.integers(1, 9),
        reasons=st.sampled_from([None, "short last visit", "short last visit; many errors in total"]),
        is_granted=st.booleans(),
    )
    def score(self, users: list[str], tenths: int, reasons: str | None, is_granted: bool) -> None:
        for user in users:
            if user in self.news or self.desired[user]["voucher_reason"] == "erased":
                continue
            if self.desired[user]["voucher_reason"] == "no_consent":
                self.hours.profile(user, consent=True)
            self.want(user, scored(self.hours, user, tenths, reasons, is_granted=is_granted and user != "u0"))

    @rule(users=SOME, reason=st.sampled_from(["redeemed", "expired"]))
    def withdraw(self, users: list[str], reason: str) -> None:
        taken = {"is_voucher_eligible": False, "voucher_reason": reason, "voucher_valid_until": None}
        for user in users:
            if self.desired[user]["is_voucher_eligible"]:
                self.want(user, self.desired[user] | taken)

    @rule(users=SOME)
    def go_back(self, users: list[str]) -> None:
        """Return to an earlier desired state, which may equal the state acknowledged before the last send."""
        for user in users:
            reasons = {self.desired[user]["voucher_reason"], self.before[user]["voucher_reason"]}
            if user not in self.news and not reasons & {"no_consent", "erased"}:
                self.want(user, self.before[user])

    @rule(
        user=st.sampled_from(USERS),
        fate=st.sampled_from(["finished", "gave_up", "no_consent", "erased", "has_tombstone_sql"]),
    )
    def end(self, user: str, fate: str) -> None:
        if "erased" in {self.news.get(user), self.desired[user]["voucher_reason"]}:
            return
        if fate in {"finished", "gave_up"}:
            self.hours.happens(user, "filing_submitted" if fate == "finished" else "filing_deleted")
        elif fate == "has_tombstone_sql":
            self.hours.bury(user)
        else:
            self.hours.profile(user, consent=False, is_erased=fate == "erased")
        self.news[user] = "erased" if fate == "has_tombstone_sql" else fate

    @rule()
    def hour(self) -> None:
        self.hours.hour()
        for user, why in self.news.items():
            self.want(user, unscored(self.desired[user], why), is_erased=why == "erased")
        self.news = {}

    @rule(trouble=TROUBLES)
    def trouble(self, trouble: Trouble) -> None:
        self.sync(trouble)

    @rule(trouble=TROUBLES)
    def more_trouble(self, trouble: Trouble) -> None:
        self.sync(trouble)

    @rule(trouble=CLEAN)
    def sync(self, trouble: Trouble) -> None:
        seen = self.hours.sync(trouble)
        self.oracle.look(self.news)
        if trouble.kind == "none" and trouble.is_folded:
            assert seen.stopped is None
            self.oracle.holds_the_desired_state(self.news)

    @rule()
    def retry(self) -> None:
        self.hours.retry()

    def teardown(self) -> None:
        """Send what is left; a further sync then sends nothing."""
        if not hasattr(self, "oracle"):
            return
        self.hour()
        self.retry()
        self.sync(Trouble())
        again = self.hours.sync()
        self.oracle.look({})
        assert again.calls == [], "what was acknowledged was sent again"


@pytest.fixture(scope="module")
def tables() -> Iterator[SyncTables]:
    made = SyncTables()
    yield made
    made.close()


@pytest.fixture(scope="module")
def crm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path_factory.mktemp("machine") / "crm.sqlite", api_key=KEY) as server:
        for allowance in server.desk.allowances.values():
            allowance.is_on = False
        yield server


@pytest.mark.parametrize("name", CRMS)
def test_the_laws_hold_in_whatever_order_things_happen(name: str, tables: SyncTables, crm: LocalCrm) -> None:
    hours = Hours(tables, crm, CRMS[name])
    run_state_machine_as_test(
        cast("type[Machine]", lambda: Machine(hours)),
        settings=settings(
            max_examples=EXAMPLES or FEW[name],
            stateful_step_count=15,
            derandomize=not EXAMPLES,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


# Cases that random examples reach once in a thousand


@pytest.fixture
def hours(tables: SyncTables, crm: LocalCrm) -> Hours:
    return Hours(tables, crm, CRMS["braze"])


@pytest.mark.parametrize(
    "trouble", [Trouble("lost for good"), Trouble("killed", place="after the reply"), Trouble("garbled")]
)
def test_a_voucher_that_nobody_knows_was_given_is_taken_away(hours: Hours, trouble: Trouble) -> None:
    before = scored(hours, "u1", 5, None, is_granted=False)
    hours.tables.desire("u1", **before)
    hours.sync()
    hours.tables.desire("u1", **scored(hours, "u1", 5, None, is_granted=True))
    hours.sync(trouble)
    assert hours.crm.store.profiles()["u1"]["voucher_eligible"] is True
    hours.tables.desire("u1", **before)
    hours.sync()
    assert hours.crm.store.profiles()["u1"]["voucher_eligible"] is False


def test_who_was_only_ever_rejected_is_not_told_that_there_is_nothing_to_say(hours: Hours) -> None:
    state = scored(hours, "u1", 5, None, is_granted=True)
    hours.tables.desire("u1", **state)
    assert [set(call.told) for call in hours.sync(Trouble("row_errors", users=("u1",))).calls] == [{"u1"}]
    hours.hour()
    hours.tables.desire("u1", **unscored(state, "finished"))
    assert hours.sync().calls == []
    assert hours.crm.store.profiles() == {}
