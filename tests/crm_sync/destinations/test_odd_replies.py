"""Odd replies: contradicting JSON, or values that no table can hold, deliver nothing and do not crash."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crm_sync.destination import UnavailableError
from crm_sync.destinations.factory import ADAPTERS
from crm_sync.destinations.http.reply import Reply, parse_json
from crm_sync.destinations.hubspot.replies import verdicts
from crm_sync.destinations.klaviyo.replies import next_cursor
from crm_sync.redaction import redacted
from tests.support.crm.every_crm import change, connected
from tests.support.crm.hubspot import ID, changes, complete, result
from tests.support.crm.klaviyo import job
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.crm.salesforce import FILLED, OPENED
from tests.support.sync.builders import marts_in, outcomes, pending_users, run
from warehouse.duckdb.warehouse import DuckDBWarehouse

ALONE = "\ud800"  # half of a surrogate pair: valid in JSON, but it cannot be stored


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    with marts_in(tmp_path) as made:
        yield made


def sent(name: str, *replies: Canned) -> list[str]:
    with scripted_server(*replies) as server:
        destination = connected(name, server.url, "key", limits=())
        try:
            outcomes = destination.send([change(name, "ada", churn_risk_band="high")], FakeRunContext(seconds_left=200))
        finally:
            destination.close()
    return [f"{outcome.kind} {outcome.code}" for outcome in outcomes]


# A repeated key


TWICE = {
    "braze": b'{"message":"success","attributes_processed":0,"attributes_processed":1}',
    "hubspot": b'{"status":"PENDING","status":"COMPLETE","results":[{"objectWriteTraceId":"0","properties":{}}]}',
    "klaviyo": b'{"data":{"id":"j","attributes":{"status":"complete","total_count":1,"completed_count":0,"completed_count":1}}}',
    "salesforce": b'{"id":"7505fEXAMPLE00012A","id":"7505fEXAMPLE00012B","state":"Open"}',
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_reply_that_says_two_things_under_one_key_delivers_nobody(name: str) -> None:
    with pytest.raises(UnavailableError) as left:
        sent(name, Canned(201, TWICE[name]))
    assert left.value.has_answered


def test_a_key_that_says_the_same_twice_says_it() -> None:
    assert parse_json(Reply(200, {}, '{"a": [1], "a": [1]}')).body == {"a": [1]}
    assert parse_json(Reply(200, {}, '{"a": [1], "a": [2]}')).body is None
    assert parse_json(Reply(200, {}, '{"b": {"a": 1, "a": true}}')).body is None


# Half a character, and other values that no table and no URL can hold


def test_a_reason_that_no_table_can_hold_is_kept_without_it(warehouse: DuckDBWarehouse) -> None:
    (user,) = pending_users(warehouse, 1)
    error = {"type": f"bad {ALONE} value\u0000here", "input_array": "attributes", "index": 0}
    with scripted_server(Canned(201, {"message": "success", "attributes_processed": 0, "errors": [error]})) as server:
        counts, _ = run(warehouse, connected("braze", server.url, "key", max_in_flight=1))
    assert (counts.rejected, outcomes(warehouse)) == (1, {user: "rejected"})


@pytest.mark.parametrize("text", [f"a{ALONE}b", "a\u0000b", "a\u202eb", "a\u0007b", "a\ufeffb"])
def test_a_reason_holds_no_sign_that_does_not_show(text: str) -> None:
    assert redacted(text) == "a b"


@pytest.mark.parametrize("name", [ALONE, "a\nb", "a b", "é", "x" * 1_000])
def test_a_job_of_klaviyo_s_with_an_unknown_id_is_not_asked_after(name: str) -> None:
    with pytest.raises(UnavailableError) as left:
        sent("klaviyo", Canned(202, job("queued", 1, 0, name=name)))
    assert left.value.code == "unknown_reply"


@pytest.mark.parametrize(
    "address", ["http://[bad", f"/?page[cursor]={ALONE}", "http://x/?page[cursor]=" + "x" * 5_000, 7]
)
def test_a_next_page_that_no_address_can_name_is_none(address: Any) -> None:
    assert next_cursor(Reply(200, {}, "", {"links": {"next": address}})) is None


def test_pages_that_lead_in_a_circle_are_left() -> None:
    pages = [Canned(200, {"data": [None], "links": {"next": f"/?page[cursor]={n}"}}) for n in "abcab"]
    with scripted_server(Canned(202, job("complete", 1, 0, 1)), *pages, pages[2]) as server:
        destination = connected("klaviyo", server.url, "key", limits=())
        destination.send([change("klaviyo", "ada", churn_risk_band="high")], FakeRunContext(seconds_left=200))
    assert len(server.asked) <= 6


# A value of another type instead of a text


ODD = [["JobComplete"], {"JobComplete": True}, None, 7, True]


@pytest.mark.parametrize("state", ODD)
def test_a_job_of_salesforce_s_in_an_unknown_state_has_not_ended(state: Any) -> None:
    with pytest.raises(UnavailableError) as left:
        sent("salesforce", *FILLED, Canned(200, {"state": state}))
    assert left.value.code == "unknown_reply"


@pytest.mark.parametrize("name", ODD)
def test_the_doctor_reads_a_list_of_attributes_with_names_of_any_type(name: Any) -> None:
    empty = Canned(400, {"message": "no"})
    with scripted_server(empty, Canned(200, {"attributes": [{"name": name, "data_type": name}]})) as server:
        findings = connected("braze", server.url, "key").examine({"score": "number"}, FakeRunContext())
    assert [each.state for each in findings] == ["ok", "ok"]


@pytest.mark.parametrize("kind", ["upload", "close"])
def test_a_step_that_is_answered_with_half_a_character_goes_on(kind: str) -> None:
    said = Canned(400, json.dumps([{"errorCode": ALONE, "message": ALONE}]).encode())
    replies = (OPENED, said) if kind == "upload" else (*FILLED[:2], said)
    with pytest.raises(Exception) as left:  # noqa: PT011 - any error, as long as a person can read it
        sent("salesforce", *replies, Canned(200, {"state": "Open"}))
    str(left.value).encode()


# An id in another Unicode form, or in another case, is the same contact


@pytest.mark.parametrize("named", ["Zoe\u0308", "ZO\u00cb", " zo\u00eb "])
def test_another_form_of_the_same_id_is_a_collision(named: str) -> None:
    (said,) = verdicts(Reply(200, {}, "", complete(result("0", user=named))), changes("zo\u00eb"), ID)
    assert f"{said.kind} {said.code}" == "rejected collision"
