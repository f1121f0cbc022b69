"""Local CRM: its Braze replies, rate limits and open connections, over real HTTP."""

import http.client
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from sandbox.local_crm.requests import Allowance
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_crm import KEY, START, Clock, counters, post, scored, serving, track
from tests.support.vendor_specs import find_or_skip


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def crm(tmp_path: Path, clock: Clock) -> Iterator[LocalCrm]:
    with serving(tmp_path, clock) as server:
        yield server


# Wire format


def test_a_write_is_acknowledged_applied_and_counted(crm: LocalCrm) -> None:
    response = track(crm, {"external_id": "ada", "churn_probability": 0.5}, {"external_id": "bob", "a": True, "b": [1]})
    assert (response.status_code, response.json()) == (201, {"message": "success", "attributes_processed": 2})
    assert crm.store.profiles() == {"ada": {"churn_probability": 0.5}, "bob": {"a": True, "b": [1]}}
    assert counters(crm) == {
        "requests": 1,
        "objects": 2,
        "attributes_written": 3,
        "by_status": {"201": 1},
        "by_endpoint": {"braze.track": {"201": 1}},
        "over_limit": {},
    }
    assert crm.store.writes_per_field() == {"a": 1, "b": 1, "churn_probability": 1}


@pytest.mark.parametrize("path", ["/users/track", "/users/export/ids", "/users/delete"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}, {"Authorization": "test-key"}])
def test_a_wrong_key_is_refused(crm: LocalCrm, path: str, headers: dict[str, str]) -> None:
    response = requests.post(crm.url + path, json={}, headers=headers, timeout=10)
    assert (response.status_code, response.json()) == (401, {"message": "Invalid API key"})


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"[]",
        b'{"attributes": [{"external_id": "ada", "a": NaN}]}',
        b'{"attributes": [{"external_id": "ada", "a": "\\ud800"}]}',
        b'{"attributes": {"external_id": "ada"}}',
        b'{"attributes": []}',
        b'{"attributes": ' + b"[" * 100_000,
    ],
)
def test_a_body_that_cannot_be_used_is_a_400_and_changes_nothing(crm: LocalCrm, body: bytes) -> None:
    response = requests.post(crm.url + "/users/track", data=body, headers=KEY, timeout=10)
    assert response.status_code == 400
    assert list(response.json()) == ["message"]
    assert crm.store.profiles() == {}


def test_an_object_that_names_nobody_is_an_indexed_error_and_the_others_are_applied(crm: LocalCrm) -> None:
    response = track(crm, {"a": 1}, {"external_id": "ada", "a": 2}, "text", {"external_id": 7})
    answer = response.json()
    assert (response.status_code, answer["attributes_processed"]) == (201, 1)
    assert [(error["input_array"], error["index"]) for error in answer["errors"]] == [
        ("attributes", 0),
        ("attributes", 2),
        ("attributes", 3),
    ]
    assert all(error["type"] for error in answer["errors"])
    assert crm.store.profiles() == {"ada": {"a": 2}}


@pytest.mark.parametrize(
    ("identifier", "key"),
    [
        ({"user_alias": {"alias_name": "n", "alias_label": "l"}}, 'user_alias:{"alias_label":"l","alias_name":"n"}'),
        ({"braze_id": "b"}, "braze_id:b"),
        ({"email": "a@example.org"}, "email:a@example.org"),
        ({"phone": "+11112223333"}, "phone:+11112223333"),
    ],
)
def test_other_identifiers_are_accepted_and_kept_apart(crm: LocalCrm, identifier: Any, key: str) -> None:
    assert "errors" not in track(crm, {**identifier, "a": 1}).json()
    assert list(crm.store.profiles()) == [key]


def test_75_objects_of_all_kinds_pass_and_76_do_not(crm: LocalCrm) -> None:
    users = [{"external_id": str(number), "a": 1} for number in range(74)]
    body = {"attributes": users, "events": [{"external_id": "0", "name": "e"}]}
    assert post(crm, "/users/track", body).json() == {
        "message": "success",
        "attributes_processed": 74,
        "events_processed": 1,
    }
    refused = post(crm, "/users/track", body | {"purchases": [{"external_id": "new"}]})
    assert refused.status_code == 400
    assert "75" in refused.json()["message"]


def test_null_removes_an_attribute(crm: LocalCrm) -> None:
    track(crm, {"external_id": "ada", "a": 1, "b": 2})
    track(crm, {"external_id": "ada", "a": None, "never_set": None})
    assert crm.store.profile("ada") == {"b": 2}


def test_update_existing_only_never_creates(crm: LocalCrm) -> None:
    track(crm, {"external_id": "ada", "a": 1})
    response = track(
        crm,
        {"external_id": "ada", "a": 2, "_update_existing_only": True},
        {"external_id": "new", "a": 2, "_update_existing_only": True},
    )
    assert response.json() == {"message": "success", "attributes_processed": 2}
    assert crm.store.profiles() == {"ada": {"a": 2}}


def test_export_returns_known_users_and_names_the_unknown(crm: LocalCrm) -> None:
    track(crm, {"external_id": "ada", "a": 1})
    assert post(crm, "/users/export/ids", {"external_ids": ["ada", "who"]}).json() == {
        "message": "success",
        "users": [{"external_id": "ada", "custom_attributes": {"a": 1}}],
        "invalid_user_ids": ["who"],
    }


def test_delete_forgets_profile_and_history(crm: LocalCrm) -> None:
    track(crm, {"external_id": "ada", "a": 1}, {"external_id": "bob", "a": 1})
    assert post(crm, "/users/delete", {"external_ids": ["ada", "who"]}).json() == {"deleted": 1, "message": "success"}
    assert crm.store.profiles() == {"bob": {"a": 1}}
    assert crm.store.history("ada") == []


@pytest.mark.parametrize("path", ["/users/export/ids", "/users/delete"])
@pytest.mark.parametrize("ids", [None, [], [1], [str(number) for number in range(51)]])
def test_export_and_delete_take_1_to_50_strings(crm: LocalCrm, path: str, ids: object) -> None:
    assert post(crm, path, {"external_ids": ids}).status_code == 400
    assert post(crm, path, {"external_ids": [str(number) for number in range(50)]}).status_code == 201


def test_attributes_are_listed_by_name_with_the_type_of_their_first_value_50_at_a_time(crm: LocalCrm) -> None:
    names = [f"a{number:02}" for number in range(46)]
    track(crm, {"external_id": "ada", **dict.fromkeys(names, "x"), "b": None, "c": [1], "d": True, "e": 1, "f": {}})
    track(crm, {"external_id": "ada", "b": 0.5, "c": "later another type", "g": None})
    first = requests.get(crm.url + "/custom_attributes", headers=KEY, timeout=10)
    second = requests.get(first.links["next"]["url"], headers=KEY, timeout=10)
    assert [each["name"] for each in first.json()["attributes"]] == [*names, "b", "c", "d", "e"]
    assert [each["data_type"] for each in first.json()["attributes"]][45:] == [
        "String",
        "Number",
        "Array",
        "Boolean",
        "Number",
    ]
    assert second.json() == {"message": "success", "attributes": [{"name": "f", "data_type": "Object"}]}
    assert "next" not in second.links


# Limits


def test_the_rate_limit_is_announced_enforced_and_lifted(crm: LocalCrm, clock: Clock) -> None:
    headers = track(crm, {"external_id": "ada", "a": 1}).headers
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("3000", "2999")
    assert int(headers["x-ratelimit-reset"]) == int(START.timestamp()) + 4  # 3.25 s later, rounded up
    crm.desk.allowances["braze.track"].requests = 2
    assert track(crm, {"external_id": "ada", "a": 2}).headers["x-ratelimit-remaining"] == "0"
    refused = track(crm, {"external_id": "ada", "a": 3})
    assert (refused.status_code, refused.headers["x-ratelimit-remaining"]) == (429, "0")
    assert crm.store.profile("ada") == {"a": 2}
    assert counters(crm)["over_limit"] == {"braze.track": 1}
    clock.forward(3)
    assert track(crm, {"external_id": "ada", "a": 3}).status_code == 201


def test_a_limit_can_be_switched_off(crm: LocalCrm) -> None:
    allowance = crm.desk.allowances["braze.track"]
    allowance.requests, allowance.is_on = 1, False
    assert [track(crm, {"external_id": "ada"}).status_code for _ in range(3)] == [201, 201, 201]
    assert allowance.refused == 0


def test_a_window_slides_and_the_refused_use_nothing() -> None:
    allowance = Allowance(2, 10)
    arrivals = [(0, True), (9, True), (9.9, False), (10, True), (18.9, False), (19, True), (19.5, False), (20, True)]
    for seconds, is_allowed in arrivals:
        now = START + timedelta(seconds=seconds)
        assert allowance.has_room(now) is is_allowed, seconds
        if is_allowed:
            allowance.use(now)
    assert allowance.wait_seconds(START + timedelta(seconds=21)) == 8.0  # until the one at 19 s has left
    assert allowance.wait_seconds(START + timedelta(seconds=29)) == 0.0


@given(st.lists(st.floats(0, 40), max_size=60), st.integers(1, 5), st.integers(1, 10))
def test_no_window_ever_holds_more_than_the_limit_and_none_is_refused_below_it(
    arrivals: list[float], requests: int, seconds: int
) -> None:
    allowance, taken = Allowance(requests, seconds), list[Any]()
    for arrival in sorted(arrivals):
        now = START + timedelta(seconds=arrival)
        recent = [each for each in taken if each > now - timedelta(seconds=seconds)]
        assert allowance.has_room(now) is (len(recent) < requests)
        if len(recent) < requests:
            allowance.use(now)
            taken.append(now)


def test_a_request_takes_from_all_its_limits_or_from_none(crm: LocalCrm) -> None:
    wide, narrow = Allowance(9, 60), Allowance(1, 60)
    with crm.app.test_request_context("/"):
        for _ in range(3):
            crm.desk.serve("x.y", [wide, narrow], crm.app.response_class, says=lambda *_: crm.app.response_class())
    assert (wide.remaining(START), narrow.remaining(START), narrow.refused, wide.refused) == (8, 0, 2, 0)


def test_of_many_requests_at_once_just_the_limit_is_taken_and_nothing_of_it_is_lost(crm: LocalCrm) -> None:
    crm.desk.allowances["braze.track"].requests = 50
    with ThreadPoolExecutor(8) as pool:
        replies = list(
            pool.map(lambda number: track(crm, {"external_id": f"u{number}", "a": 1}, run_id="7"), range(80))
        )
    assert sorted(reply.status_code for reply in replies) == [201] * 50 + [429] * 30
    assert crm.desk.allowances["braze.track"].refused == 30
    (run,) = crm.store.runs(9)
    assert (len(crm.store.profiles()), run.profiles, run.writes, run.attributes) == (50, 50, 50, 50)


# The server


def connection(crm: LocalCrm) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(crm.url.removeprefix("http://"), timeout=10)


def test_a_connection_serves_many_requests_whatever_became_of_the_body_before(crm: LocalCrm) -> None:
    line = connection(crm)
    line.connect()
    first = line.sock
    seen = []
    requests_ = [
        ("POST", "/nowhere", b"x" * 100_000),
        ("GET", "/", None),
        ("HEAD", "/", None),
        ("POST", "/users/track", b"{}"),
    ]
    for method, path, body in requests_:
        line.request(method, path, body, headers=KEY)
        reply = line.getresponse()
        reply.read()
        seen.append((reply.status, line.sock is first))
    line.close()
    assert seen == [(404, True), (200, True), (200, True), (400, True)]


def test_a_body_in_chunks_is_understood(crm: LocalCrm) -> None:
    parts = iter([b'{"attributes": [{"external_id":', b' "ada", "a": 1}]}'])
    assert requests.post(crm.url + "/users/track", data=parts, headers=KEY, timeout=10).status_code == 201
    assert crm.store.profile("ada") == {"a": 1}


def test_the_end_of_the_server_ends_open_connections(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        line = connection(server)
        line.request("GET", "/_control/requests")
        line.getresponse().read()
        assert line.sock
    assert line.sock.recv(1) == b""
    line.close()


def test_a_bug_in_the_app_is_a_500_and_the_server_goes_on(crm: LocalCrm, caplog: pytest.LogCaptureFixture) -> None:
    crm.app.add_url_rule("/users/bug", view_func=lambda: 1 / 0)  # type: ignore[arg-type]
    assert requests.get(crm.url + "/users/bug", timeout=10).status_code == 500
    assert "ZeroDivisionError" in caplog.text
    assert track(crm, {"external_id": "ada"}).status_code == 201


def test_a_sink_judges_and_counts_and_keeps_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, is_sink=True) as sink:
        answer = track(sink, {"external_id": "ada", "a": 1, "b": 2}, {"a": 1}).json()
        assert (answer["attributes_processed"], len(answer["errors"])) == (1, 1)
        assert (counters(sink)["objects"], counters(sink)["attributes_written"]) == (1, 2)
        assert sink.store.profiles() == {}


def test_profiles_outlive_the_server(tmp_path: Path, clock: Clock) -> None:
    with serving(tmp_path, clock) as first:
        track(first, {"external_id": "ada", "a": 1})
    with serving(tmp_path, clock) as second:
        assert second.store.profile("ada") == {"a": 1}


def test_a_taken_port_is_an_error_the_caller_can_catch(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        LocalCrm(tmp_path / "crm.db", port=taken.getsockname()[1])


# The vendor's description


def test_track_matches_the_vendors_description(crm: LocalCrm) -> None:
    path = find_or_skip("braze_community.json")
    openapi_core = pytest.importorskip("openapi_core")
    from openapi_core.contrib.requests import RequestsOpenAPIRequest, RequestsOpenAPIResponse  # noqa: PLC0415

    description = json.loads(path.read_text())
    description["servers"] = [{"url": crm.url}]
    openapi = openapi_core.OpenAPI.from_dict(description)
    bodies: list[dict[str, object]] = [{"attributes": [scored("ada"), {"a": 1}]}, {"attributes": []}]
    for body in bodies:
        request = requests.Request("POST", crm.url + "/users/track", json=body, headers=KEY)
        response = post(crm, "/users/track", body)
        openapi.validate_request(RequestsOpenAPIRequest(request))
        openapi.validate_response(RequestsOpenAPIRequest(request), RequestsOpenAPIResponse(response))
