"""Pointers: if Klaviyo refuses an import and names rows, only they are rejected, with few requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crm_sync.destination import BatchRefusedError, Outcome
from crm_sync.diff import Change
from sandbox.local_crm.apis import klaviyo as klaviyo_wire
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.every_crm import connected
from tests.support.crm.klaviyo import described_crm
from tests.support.crm.local_api import Asked, Canned, FakeRunContext, scripted_server

KEY = "key"
LONG = "x" * 300
DELIVERED = Outcome("delivered", 200)


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def crm(tmp_path: Path, run: FakeRunContext, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCrm]:
    """A CRM that points at the first profile longer than 250 bytes."""
    monkeypatch.setattr(klaviyo_wire, "MAX_PROFILE_BYTES", 250)
    with described_crm(tmp_path, run, KEY) as server:
        yield server


def users(count: int, bad: set[int]) -> list[Change]:
    return [Change(f"u{n:03d}", {"band": LONG if n in bad else "high"}) for n in range(count)]


def test_one_request_more_for_each_row_it_points_at(crm: LocalCrm, run: FakeRunContext) -> None:
    bad = {0, 7, 8, 250, 299}
    outcomes = connected("klaviyo", crm.url, KEY).send(users(300, bad), run)
    assert {n for n, outcome in enumerate(outcomes) if outcome.kind == "rejected"} == bad
    assert {outcome for n, outcome in enumerate(outcomes) if n not in bad} == {DELIVERED}
    assert crm.desk.by_endpoint["klaviyo.import"] == {"400": 5, "202": 1}
    assert len(crm.store.profiles()) == 295


@pytest.mark.parametrize("count", [1, 2, 19])
def test_a_batch_of_which_every_row_is_pointed_at_is_refused_whole(
    crm: LocalCrm, run: FakeRunContext, count: int
) -> None:
    """The requests may be at fault then; the sync finds out user by user."""
    with pytest.raises(BatchRefusedError):
        connected("klaviyo", crm.url, KEY).send(users(count, set(range(count))), run)
    assert crm.desk.by_endpoint["klaviyo.import"] == {"400": count}


def test_where_most_of_the_first_rows_are_pointed_at_halving_finds_out_whose_fault_it_is(
    crm: LocalCrm, run: FakeRunContext
) -> None:
    with pytest.raises(BatchRefusedError):
        connected("klaviyo", crm.url, KEY).send(users(300, set(range(300))), run)
    assert crm.desk.by_endpoint["klaviyo.import"] == {"400": 20}


def error(pointer: Any, detail: str = "u001 is wrong") -> dict[str, Any]:
    return {"code": "invalid", "title": "Invalid input.", "detail": detail, "source": {"pointer": pointer}}


ROWS = "/data/attributes/profiles/data"
COMPLETE = {"data": {"id": "j", "attributes": {"status": "complete", "total_count": 1, "completed_count": 1}}}


def test_all_rows_pointed_at_in_one_reply_cost_one_request_more(run: FakeRunContext) -> None:
    errors = [error(f"{ROWS}/0/attributes/properties"), error(f"{ROWS}/2"), error(f"{ROWS}/2/attributes")]
    with scripted_server(Canned(400, {"errors": errors}), Canned(202, COMPLETE)) as server:
        outcomes = connected("klaviyo", server.url, KEY).send(users(3, set()), run)
    assert outcomes == [
        Outcome("rejected", 400, "invalid", "Invalid input. properties"),
        DELIVERED,
        Outcome("rejected", 400, "invalid", "Invalid input."),
    ]
    assert [_ids(asked) for asked in server.asked] == [["u000", "u001", "u002"], ["u001"]]


def _ids(asked: Asked) -> list[str]:
    return [each["attributes"]["external_id"] for each in asked.body["data"]["attributes"]["profiles"]["data"]]


@pytest.mark.parametrize(
    "pointer",
    [
        f"{ROWS}/3",
        f"{ROWS}/-1",
        f"{ROWS}/00",
        f"{ROWS}/1e0",
        f"{ROWS}/9999999999",
        f"{ROWS}/\u0661",
        f"{ROWS}/",
        f"{ROWS}x/1",
        "/data/attributes/lists/data/1",
        "/data",
        "",
        None,
        1,
        [f"{ROWS}/1"],
    ],
)
def test_what_points_at_no_row_of_the_batch_leaves_it_refused_whole(run: FakeRunContext, pointer: Any) -> None:
    with scripted_server(Canned(400, {"errors": [error(pointer)]})) as server, pytest.raises(BatchRefusedError):
        connected("klaviyo", server.url, KEY).send(users(3, set()), run)
    assert len(server.asked) == 1


def test_no_reason_holds_a_user_s_id_or_text(run: FakeRunContext) -> None:
    named = {"code": "invalid", "title": "Value secret-word of u000 is wrong.", "source": {"pointer": f"{ROWS}/0"}}
    with scripted_server(Canned(400, {"errors": [named]}), Canned(202, COMPLETE)) as server:
        batch = [Change("u000", {"band": "secret-word"}), Change("u001", {"band": "high"})]
        outcomes = connected("klaviyo", server.url, KEY).send(batch, run)
    assert outcomes[0] == Outcome("rejected", 400, "invalid", "Value ... of ... is wrong.")
