"""Does the local CRM behave as Braze would, and show people what it holds? A real server, asked over HTTP."""

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from sandbox.crm_server import LocalCrm

KEY = {"Authorization": "Bearer test-key"}
START = datetime(2026, 11, 23, 9, 0, 0, 250_000, tzinfo=UTC)
SPEC = Path(__file__).parents[2] / "shared/specs/braze_community.json"


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def crm(tmp_path: Path, clock: Clock) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db", api_key="test-key", clock=clock) as server:
        yield server


def post(crm: LocalCrm, path: str, body: object) -> requests.Response:
    return requests.post(crm.url + path, json=body, headers=KEY, timeout=10)


def track(crm: LocalCrm, *attributes: object) -> requests.Response:
    return post(crm, "/users/track", {"attributes": attributes})


def fault(crm: LocalCrm, **body: object) -> None:
    assert requests.post(crm.url + "/_control/faults", json=body, timeout=10).status_code == 200


def counters(crm: LocalCrm) -> Any:
    return requests.get(crm.url + "/_control/requests", timeout=10).json()


def page(crm: LocalCrm, path: str) -> str:
    response = requests.get(crm.url + path, timeout=10)
    assert response.status_code == 200
    return response.text


def scored(external_id: str, **changes: object) -> dict[str, object]:
    return {
        "external_id": external_id,
        "churn_probability": 0.8421,
        "churn_risk_band": "high",
        "churn_reasons": ["Left at the income step"],
        "voucher_eligible": True,
        "voucher_reason": "granted",
        "voucher_valid_until": "2026-11-30T09:00:00Z",
        "experiment_arm": "treatment",
    } | changes


# Wire format


def test_a_write_is_acknowledged_applied_and_counted(crm: LocalCrm) -> None:
    response = track(crm, {"external_id": "ada", "churn_probability": 0.5}, {"external_id": "bob", "a": True, "b": [1]})
    assert (response.status_code, response.json()) == (201, {"message": "success", "attributes_processed": 2})
    assert crm.store.profiles() == {"ada": {"churn_probability": 0.5}, "bob": {"a": True, "b": [1]}}
    assert counters(crm) == {"requests": 1, "objects": 2, "attributes_written": 3, "by_status": {"201": 1}}
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


def test_the_rate_limit_is_announced_enforced_and_lifted(crm: LocalCrm, clock: Clock) -> None:
    headers = track(crm, {"external_id": "ada", "a": 1}).headers
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("3000", "2999")
    assert int(headers["x-ratelimit-reset"]) == int(START.timestamp()) + 4  # 3.25 s later, rounded up
    crm.app.config["ALLOWANCE"].requests = 2
    assert track(crm, {"external_id": "ada", "a": 2}).headers["x-ratelimit-remaining"] == "0"
    refused = track(crm, {"external_id": "ada", "a": 3})
    assert (refused.status_code, refused.headers["x-ratelimit-remaining"]) == (429, "0")
    assert crm.store.profile("ada") == {"a": 2}
    clock.forward(3)
    assert track(crm, {"external_id": "ada", "a": 3}).status_code == 201


# Faults


@pytest.mark.parametrize(
    ("status", "retry_after"), [(429, "2"), (503, "Mon, 23 Nov 2026 09:00:05 GMT"), (500, None), (202, None)]
)
def test_told_to_answer_with_a_status_it_does_so_n_times_and_applies_nothing(
    crm: LocalCrm, status: int, retry_after: str | None
) -> None:
    fault(crm, kind="status", status=status, retry_after=retry_after, times=2)
    replies = [track(crm, {"external_id": "ada", "a": number}) for number in range(3)]
    assert [reply.status_code for reply in replies] == [status, status, 201]
    assert [reply.headers.get("Retry-After") for reply in replies] == [retry_after, retry_after, None]
    assert len(crm.store.history("ada")) == 1
    assert counters(crm)["by_status"] == {str(status): 2, "201": 1}


def test_told_to_refuse_a_user_it_does_so_until_cleared(crm: LocalCrm) -> None:
    fault(crm, kind="row_error", external_ids=["bob"])
    for _ in range(2):
        answer = track(crm, {"external_id": "ada", "a": 1}, {"external_id": "bob", "a": 1}).json()
        assert [(error["input_array"], error["index"]) for error in answer["errors"]] == [("attributes", 1)]
    requests.delete(crm.url + "/_control/faults", timeout=10)
    assert "errors" not in track(crm, {"external_id": "bob", "a": 1}).json()


@pytest.mark.parametrize(("kind", "is_applied"), [("lose_reply", True), ("reset", False)])
def test_told_to_hang_up_it_sends_no_reply(crm: LocalCrm, kind: str, is_applied: bool) -> None:
    fault(crm, kind=kind)
    with pytest.raises(requests.ConnectionError):
        track(crm, {"external_id": "ada", "a": 1})
    assert crm.store.profile("ada") == ({"a": 1} if is_applied else None)
    assert counters(crm)["by_status"] == {"no reply": 1}
    assert track(crm, {"external_id": "ada", "a": 1}).status_code == 201


def test_faults_happen_in_the_order_they_were_given(crm: LocalCrm) -> None:
    fault(crm, kind="status", status=500)
    fault(crm, kind="status", status=429)
    assert [track(crm, {"external_id": "ada"}).status_code for _ in range(3)] == [500, 429, 201]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "fire"},
        {"kind": "status"},
        {"kind": "status", "status": 999},
        {"kind": "reset", "times": 0},
        {"kind": "row_error"},
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(crm: LocalCrm, body: dict[str, object]) -> None:
    assert post(crm, "/_control/faults", body).status_code == 400


# History, segments, pages


def test_history_keeps_what_changed_newest_first(crm: LocalCrm, clock: Clock) -> None:
    track(crm, {"external_id": "ada", "a": 1, "same": "x"})
    clock.forward(60)
    track(crm, {"external_id": "ada", "a": True, "same": "x"})  # 1 and true differ, though Python says they are equal
    track(crm, {"external_id": "ada", "a": None})
    found = [(change.field, change.before, change.after) for change in crm.store.history("ada")]
    assert found[:2] == [("a", True, None), ("a", 1, True)]
    assert sorted(found[2:], key=str) == [("a", None, 1), ("same", None, "x")]
    assert crm.store.history("ada")[0].received_at == START + timedelta(seconds=60)
    assert crm.store.writes_per_field() == {"a": 3, "same": 2}


def test_every_segment_holds_whom_its_rule_says(crm: LocalCrm) -> None:
    held = scored("holdout", voucher_eligible=False, voucher_reason="holdout", experiment_arm="holdout")
    track(crm, scored("granted"), held, scored("finished"), scored("medium", churn_risk_band="medium"))
    track(crm, {"external_id": "low", "churn_risk_band": "low", "voucher_eligible": "true"}, {"external_id": "blank"})
    done = {"churn_probability": None, "churn_risk_band": None, "voucher_eligible": False}
    track(crm, {"external_id": "finished", **done})
    members = {
        "high-risk-voucher": ["granted"],
        "high-risk-holdout": ["holdout"],
        "voucher-eligible": ["granted", "medium"],
        "voucher-withdrawn": ["finished"],
        "medium-risk": ["medium"],
        "low-risk": ["low"],
        "no-longer-scored": ["finished"],
    }
    found = {slug: sorted(key for key, _ in crm.store.segment(slug, limit=9)) for slug in members}
    assert found == members
    assert crm.store.segment_counts() == {slug: len(names) for slug, names in members.items()}
    assert crm.store.totals() == {"profiles": 6, "voucher_eligible": 2, "high_risk": 2, "in_holdout": 1}


def test_the_overview_shows_counts_distribution_and_latest_writes(crm: LocalCrm) -> None:
    rows = [scored(f"user-{number}", churn_probability=number % 10 / 10 + 0.05) for number in range(1_234)]
    for start in range(0, len(rows), 75):
        track(crm, *rows[start : start + 75])
    assert crm.store.probability_bins() == [124] * 4 + [123] * 6
    html = page(crm, "/")
    assert "Local CRM" in html
    assert "<dd>1,234<small>" in html
    assert "user-1233" in html
    assert "granted" in html


def test_a_probability_between_two_tenths_counts_in_the_upper_one(crm: LocalCrm) -> None:
    edges = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, "not a number", None]
    track(crm, *[{"external_id": f"u{number}", "churn_probability": edge} for number, edge in enumerate(edges)])
    assert crm.store.probability_bins() == [1] * 9 + [2]


def test_an_empty_crm_has_an_overview_too(crm: LocalCrm) -> None:
    assert "Nothing written yet" in page(crm, "/")
    assert "Nobody is in this segment" in page(crm, "/segments/low-risk")


def test_a_segment_is_shown_in_pages_of_50(crm: LocalCrm) -> None:
    for start in (0, 30):
        track(crm, *[scored(f"u{number:03}", churn_probability=number / 100) for number in range(start, start + 30)])
    first, last = page(crm, "/segments/high-risk-voucher"), page(crm, "/segments/high-risk-voucher?page=2")
    assert "u059" in first
    assert "u009" not in first
    assert "u009" in last
    assert page(crm, "/segments/high-risk-voucher?page=99") == last
    assert page(crm, "/segments/high-risk-voucher?page=x") == first


def test_a_profile_page_tells_values_meaning_and_history(crm: LocalCrm) -> None:
    track(crm, scored("a/b//c d"))
    track(crm, {"external_id": "a/b//c d", "voucher_eligible": False, "voucher_reason": "finished"})
    html = page(crm, "/profiles/a/b//c%20d")
    for text in ("0.8421", "Chance that the user never finishes", "Finished meanwhile", "30 Nov 2026, 09:00 UTC"):
        assert text in html
    assert requests.get(crm.url + "/profiles", params={"external_id": "a/b//c d"}, timeout=10).text == html


@pytest.mark.parametrize("path", ["/profiles/%3Cb%3Enobody", "/segments/%3Cb%3Enone", "/nowhere"])
def test_what_is_not_there_is_a_friendly_404(crm: LocalCrm, path: str) -> None:
    response = requests.get(crm.url + path, timeout=10)
    assert response.status_code == 404
    assert "Back to the overview" in response.text
    assert "<b>n" not in response.text


def test_whatever_the_attributes_are_pages_show_them_as_text(crm: LocalCrm) -> None:
    evil = "<script>alert(1)</script>"
    odd: tuple[object, ...] = (evil, [evil], {evil: evil}, 5, True, [[None, 1.5]], "")
    fields = [*scored("x"), "churn_scored_at", evil]
    for number, value in enumerate(odd):
        track(crm, dict.fromkeys(fields, value) | {"external_id": f"{number}{evil}", "churn_risk_band": "low"})
    paths = ["/", "/segments/low-risk", *(f"/profiles/{number}{evil}" for number in range(len(odd)))]
    for path in paths:
        html = page(crm, path)
        assert "<script" not in html
        assert "alert(1)" in html


def test_profiles_outlive_the_server(tmp_path: Path, clock: Clock) -> None:
    with LocalCrm(tmp_path / "crm.db", api_key="test-key", clock=clock) as first:
        track(first, {"external_id": "ada", "a": 1})
    with LocalCrm(tmp_path / "crm.db", api_key="test-key", clock=clock) as second:
        assert second.store.profile("ada") == {"a": 1}


def test_a_taken_port_is_an_error_the_caller_can_catch(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        LocalCrm(tmp_path / "crm.db", port=taken.getsockname()[1])


# The vendor's description


def test_track_matches_the_vendors_description(crm: LocalCrm) -> None:
    if not SPEC.exists():
        pytest.skip("the community description of Braze's API is not part of this repository")
    openapi_core = pytest.importorskip("openapi_core")
    from openapi_core.contrib.requests import RequestsOpenAPIRequest, RequestsOpenAPIResponse  # noqa: PLC0415

    description = json.loads(SPEC.read_text())
    description["servers"] = [{"url": crm.url}]
    openapi = openapi_core.OpenAPI.from_dict(description)
    bodies: list[dict[str, object]] = [{"attributes": [scored("ada"), {"a": 1}]}, {"attributes": []}]
    for body in bodies:
        request = requests.Request("POST", crm.url + "/users/track", json=body, headers=KEY)
        response = post(crm, "/users/track", body)
        openapi.validate_request(RequestsOpenAPIRequest(request))
        openapi.validate_response(RequestsOpenAPIRequest(request), RequestsOpenAPIResponse(response))
