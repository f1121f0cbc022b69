"""Bad networks: the outcomes of rows under every kind of network fault, for each CRM.

Each test runs a sync of sixty users under a fault, and a clean one an hour later. Waits only advance the CRM's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from email.utils import format_datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest

from crm_sync.destination import Destination
from crm_sync.destinations.braze import Braze, BrazeOptions
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.destinations.hubspot.client import HubSpot, HubSpotOptions
from crm_sync.destinations.klaviyo.client import Klaviyo, KlaviyoOptions
from crm_sync.destinations.salesforce.client import Salesforce, SalesforceOptions
from crm_sync.field_mapping import FieldMapping, load_fields
from sandbox.local_crm.faults import Fault
from sandbox.local_crm.http import Handler
from sandbox.local_crm.server import LocalCrm
from tests.support.sync.builders import MAPPING, Time
from tests.support.sync.hours import START, Hours
from tests.support.sync.recorder import Trouble
from tests.support.sync.reference_model import Oracle
from tests.support.sync.tables import SyncTables

KEY = "key-of-a-bad-network"
BUDGET = RetryBudget(seconds=60.0, first_wait_seconds=0.5)
COUNT_USERS = 60
SALESFORCE_FIELDS = Path(__file__).parents[3] / "examples/salesforce/crm_fields.yml"
HALF_A_MINUTE = "in half a minute, as a date"
FOR_EVER = 10_000


@dataclass(frozen=True)
class Crm:
    """How to connect to a CRM with its documented limits, and its batch size."""

    connect: Callable[[str], Destination]
    mapping: FieldMapping = MAPPING


CRMS = {
    "braze": Crm(lambda url: Braze(url, KEY, BrazeOptions(max_batch=10), BUDGET)),
    "hubspot": Crm(lambda url: HubSpot(url, KEY, HubSpotOptions(max_batch=10), BUDGET)),
    "klaviyo": Crm(lambda url: Klaviyo(url, KEY, KlaviyoOptions(max_batch=30), BUDGET)),
    "salesforce": Crm(
        lambda url: Salesforce(url, KEY, SalesforceOptions(max_batch=30), BUDGET), load_fields(SALESFORCE_FIELDS)
    ),
}


def date(time: Time, seconds: float = 0) -> str:
    """The time of the CRM's clock in HTTP's format."""
    return format_datetime(START + timedelta(seconds=int(time.now + seconds)), usegmt=True)


def fault(kind: str, times: int = 1, **more: Any) -> Fault:
    return Fault(kind, times=times, **more)


# Faults that pass within the retry budget: nothing is left for the next run, and no user is in doubt.
PASSING = {
    "a reply is lost": fault("lose_reply"),
    "a request is repeated by a proxy": fault("duplicate_reply"),
    "a reset before the request is read": fault("reset"),
    "a reset in the middle of the reply": fault("reset", at="reply"),
    "a slow reply": fault("slow_body", bytes=40),
    "no reply at all": fault("hang"),
    "a page that is not JSON": fault("garbage"),
    "a gateway's error": fault("garbage", status=502),
    "a burst of 503": fault("status", 3, status=503),
    "a burst of 429 with seconds": fault("status", 2, status=429, retry_after=7),
    "a 429 with a date": fault("status", status=429, retry_after=HALF_A_MINUTE),
    "a burst of 429 with nothing": fault("status", 2, status=429),
}
# Lasting faults: the run reports the reason, and the next run sends the rest.
LASTING = {
    "no reply ever": (fault("lose_reply", FOR_EVER), "unavailable"),
    "always a reset": (fault("reset", FOR_EVER, at="reply"), "unavailable"),
    "always 500": (fault("status", FOR_EVER, status=500), "unavailable"),
    "always 429 with an hour": (fault("status", FOR_EVER, status=429, retry_after=3_600), "throttled"),
    "always 429 with a date": (fault("status", FOR_EVER, status=429, retry_after=HALF_A_MINUTE), "throttled"),
    "always a page": (fault("garbage", FOR_EVER), "unavailable"),
    "always an object of another shape": (fault("garbage", FOR_EVER, body={"ok": True}), "unknown_reply"),
    "always a list": (fault("garbage", FOR_EVER, body=[]), "unknown_reply"),
    "always null": (fault("garbage", FOR_EVER, body="null"), "unavailable"),
    "always nothing": (fault("garbage", FOR_EVER, status=204, body=""), "unknown_reply"),
    "no permission": (fault("status", FOR_EVER, status=401), "stopped"),
}


@pytest.fixture(scope="module")
def tables() -> Iterator[SyncTables]:
    made = SyncTables()
    yield made
    made.close()


@pytest.fixture(scope="module")
def time() -> Time:
    return Time()


@pytest.fixture(scope="module")
def crm(tmp_path_factory: pytest.TempPathFactory, time: Time) -> Iterator[LocalCrm]:
    folder = tmp_path_factory.mktemp("network")
    with LocalCrm(folder / "crm.sqlite", api_key=KEY, clock=lambda: START + timedelta(seconds=time.now)) as server:
        yield server


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch, time: Time) -> None:
    # Replies on this machine are faster than this; a missing reply is waited for in real time.
    monkeypatch.setattr("crm_sync.destinations.http.transport.TIMEOUT_SECONDS", (5.0, 0.5))
    monkeypatch.setattr(Handler, "date_time_string", lambda *_: date(time))


@dataclass
class World:
    hours: Hours
    oracle: Oracle

    def sync(self, *faults: Fault, in_flight: int = 1) -> Any:
        """Sync an hour later, and check the invariants of every sync."""
        self.hours.time.add(3_600)
        in_half_a_minute = date(self.hours.time, 30)
        faults = tuple(
            replace(each, retry_after=in_half_a_minute) if each.retry_after == HALF_A_MINUTE else each
            for each in faults
        )
        seen = self.hours.sync(Trouble(in_flight=in_flight, rows_per_append=5_000), faults=faults)
        self.oracle.look({})
        assert [name for name, each in self.hours.crm.desk.allowances.items() if each.refused] == []
        return seen

    def converges(self) -> None:
        """Check that a clean run sends the rest."""
        self.sync()
        self.oracle.holds_the_desired_state({})


def world(tables: SyncTables, crm: LocalCrm, time: Time, name: str) -> World:
    """Sixty users. The CRM has the first twenty; half of these now lose their voucher, and all sixty get a score."""
    hours = Hours(tables, crm, CRMS[name].connect, CRMS[name].mapping, time)
    made = World(hours, Oracle(hours))
    for number in range(20):
        want(hours, number, tenths=5, is_granted=True)
    assert made.sync().counts.delivered == 20
    for number in range(COUNT_USERS):
        want(hours, number, tenths=8, is_granted=number >= 10)
    return made


def want(hours: Hours, number: int, tenths: int, *, is_granted: bool) -> None:
    hours.tables.desire(
        f"u{number:02d}",
        churn_probability=tenths / 10,
        churn_risk_band="high" if tenths > 6 else "medium",
        churn_reasons="short last visit; many errors in total" if number % 2 else None,
        churn_scored_at=START,
        churn_model_version="m1",
        is_voucher_eligible=is_granted,
        voucher_reason="granted" if is_granted else "redeemed",
        voucher_valid_until=START + timedelta(days=7) if is_granted else None,
        experiment_arm="treatment",
    )


def places(name: str) -> Iterator[int]:
    """The request that a fault hits: the first or the fourth. Over all CRMs, each fault hits both."""
    return islice(cycle([0, 3]), list(CRMS).index(name) % 2, None)


@pytest.mark.parametrize("name", CRMS)
def test_what_passes_leaves_nothing_undone(tables: SyncTables, crm: LocalCrm, time: Time, name: str) -> None:
    for (what, passing), after in zip(PASSING.items(), places(name), strict=False):
        made = world(tables, crm, time, name)
        seen = made.sync(replace(passing, after=after), in_flight=2)
        assert (what, seen.stopped) == (what, None)
        assert (what, seen.counts.delivered) == (what, COUNT_USERS)
        made.converges()


@pytest.mark.parametrize("name", CRMS)
def test_what_lasts_is_said_and_the_next_run_does_the_rest(
    tables: SyncTables, crm: LocalCrm, time: Time, name: str
) -> None:
    for (what, (lasting, code)), after in zip(LASTING.items(), places(name), strict=False):
        made = world(tables, crm, time, name)
        seen = made.sync(replace(lasting, after=after))
        assert (what, seen.stopped is not None) == (what, True)
        assert (what, list(seen.counts.deferred)) == (what, [code])
        made.converges()
