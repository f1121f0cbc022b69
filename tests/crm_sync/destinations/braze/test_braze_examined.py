"""Doctor for Braze: checks that the key suffices and the attributes fit, without writing anything."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crm_sync.destination import Finding
from crm_sync.destinations import braze as braze_module
from crm_sync.destinations.braze import ATTRIBUTES, Braze, judged, next_page
from crm_sync.destinations.http.transport import Reply
from crm_sync.diff import Change
from crm_sync.field_mapping import Kind
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.sync.builders import MAPPING

KINDS: dict[str, Kind] = {"score": "number", "band": "text", "eligible": "flag", "until": "time", "reasons": "texts"}
FITTING = {"score": "Number", "band": "String", "eligible": "Boolean", "until": "Date", "reasons": "Array (Automatic)"}
EMPTY = Canned(400, {"message": "Valid data must be provided"})  # the reply to a request without objects
ONE: dict[str, Kind] = {"score": "number"}


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db") as server:
        yield server


def listed(types: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "data_type": kind} for name, kind in types.items()]


def test_a_crm_that_is_ready_is_found_so_and_nothing_is_written(crm: LocalCrm) -> None:
    found = Braze(crm.url, "local-key").examine(MAPPING.kinds, FakeRunContext())
    assert [finding.state for finding in found] == ["ok", "ok"]
    assert found[1].says.startswith("Braze will make 9 attributes with the first delivery: churn_probability, ")
    assert (crm.store.profiles(), crm.store.latest_writes(10)) == ({}, [])


def test_after_a_delivery_the_attributes_are_there_with_fitting_types(crm: LocalCrm) -> None:
    destination, run = Braze(crm.url, "local-key"), FakeRunContext()
    values: dict[str, Any] = {"score": 0.5, "band": "a", "eligible": True, "reasons": ["a"]}
    destination.send([Change("ada", values)], run)
    kinds: dict[str, Kind] = {"score": "number", "band": "text", "eligible": "flag", "reasons": "texts"}
    assert destination.examine(kinds, run)[1] == Finding("ok", "Braze has all 4 attributes with fitting types")
    wrong = destination.examine(kinds | {"band": "number"}, run)[1]
    assert (wrong.state, wrong.says) == ("failed", "Braze holds these attributes with another type: band")
    assert wrong.do


def test_a_wrong_key_fails_and_says_what_it_must_be_allowed(crm: LocalCrm) -> None:
    may_write, attributes = Braze(crm.url, "another").examine(ONE, FakeRunContext())
    assert (may_write.state, attributes.state) == ("failed", "skipped")
    assert "HTTP 401" in may_write.says
    assert "users.track and users.delete" in may_write.do[0]
    assert "custom_attributes.get" in attributes.do[0]


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_key_that_may_not_list_attributes_may_still_write(status: int) -> None:
    with scripted_server(EMPTY, Canned(status)) as script:
        may_write, attributes = Braze(script.url, "key").examine(ONE, FakeRunContext())
    assert (may_write.state, attributes.state) == ("ok", "skipped")
    assert script.asked[0].body == {"attributes": []}


@pytest.mark.parametrize("body", [None, [], {}, {"attributes": None}, {"attributes": {"score": "number"}}])
def test_a_list_of_unknown_shape_is_no_finding(body: Any) -> None:
    with scripted_server(EMPTY, Canned(200, body)) as script:
        found = Braze(script.url, "key").examine(ONE, FakeRunContext())[1]
    assert found == Finding("skipped", "Braze listed its attributes in an unknown shape")


def test_the_list_is_read_to_its_last_page() -> None:
    there = {"Link": '<https://rest.example/custom_attributes/?cursor=abc>; rel="next"'}
    first = Canned(200, {"attributes": listed({"other": "String"})}, there)
    back = {"Link": '<https://rest.example/custom_attributes/?cursor=zzz>; rel="prev"'}
    second = Canned(200, {"attributes": listed({"score": "String"})}, back)
    with scripted_server(EMPTY, first, second) as script:
        found = Braze(script.url, "key").examine(ONE, FakeRunContext())[1]
    assert [asked.path for asked in script.asked[1:]] == ["/custom_attributes", "/custom_attributes?cursor=abc"]
    assert found.says == "Braze holds these attributes with another type: score"


def test_every_page_of_the_local_crm_is_read(crm: LocalCrm) -> None:
    destination, run = Braze(crm.url, "local-key"), FakeRunContext()
    many: dict[str, Any] = {f"a{number:03d}": 0.5 for number in range(120)}
    destination.send([Change("ada", many)], run)
    found = destination.examine(dict.fromkeys(many, "number"), run)[1]
    assert found == Finding("ok", "Braze has all 120 attributes with fitting types")


def test_a_list_that_never_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(braze_module, "MAX_PAGES", 3)
    there = {"Link": f'<{ATTRIBUTES}?cursor=a>; rel="next"'}
    with scripted_server(EMPTY, Canned(200, {"attributes": []}, there)) as script:
        found = Braze(script.url, "key").examine(ONE, FakeRunContext())[1]
    assert found == Finding("skipped", "Braze has more than 3 pages of attributes")


@pytest.mark.parametrize(
    ("link", "path"),
    [
        ("", None),
        ('<https://x/y?cursor=1>; rel="next"', "/custom_attributes?cursor=1"),
        ("<https://x/y?cursor=1>; rel=next", "/custom_attributes?cursor=1"),
        ('<https://x/y?cursor=0>; rel="prev", <https://x/y?cursor=2>; rel="next"', "/custom_attributes?cursor=2"),
        ('<https://x/y>; rel="next"', None),
        ('<https://x/y?a b>; rel="next"', None),
        ("next", None),
    ],
)
def test_the_next_page_is_a_page_of_the_same_list_wherever_the_link_leads(link: str, path: str | None) -> None:
    assert next_page(Reply(200, {"link": link})) == path


@pytest.mark.parametrize(
    ("types", "state", "named"),
    [
        (FITTING, "ok", "Braze has all 5 attributes with fitting types"),
        (FITTING | {"until": "Time"}, "ok", "Braze has all 5"),
        (FITTING | {"until": "String"}, "ok", "Braze has all 5"),
        (FITTING | {"until": "Number"}, "failed", "with another type: until"),
        (FITTING | {"score": "String", "eligible": "Number"}, "failed", "with another type: score, eligible"),
        ({name: kind for name, kind in FITTING.items() if name != "band"}, "ok", "will make 1 attributes"),
        ({}, "ok", "will make 5 attributes with the first delivery: score, band, eligible, until, reasons"),
        ({"other": "Object"}, "ok", "will make 5"),
    ],
)
def test_types_are_compared_in_braze_s_own_words(types: dict[str, str], state: str, named: str) -> None:
    found = judged(listed(types), KINDS)
    assert found.state == state
    assert named in found.says


def test_entries_that_say_nothing_are_no_attributes() -> None:
    assert judged([None, "score", 3, {}, {"name": "score"}], ONE).state == "failed"
    assert judged([None, "score", 3, {}], ONE).state == "ok"
