"""HubSpot's replies: only HubSpot's own result for a row counts as a success."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_sync.destination import BatchRefusedError, MisconfiguredError, Outcome, UnavailableError
from crm_sync.destinations.http.transport import Reply
from crm_sync.destinations.hubspot.replies import verdicts
from tests.support.crm.hubspot import (
    ID,
    Connect,
    changes,
    complete,
    connecting,
    error,
    result,
)
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def connected() -> Iterator[Connect]:
    with connecting() as connect:
        yield connect


@pytest.mark.parametrize("status", [200, 201, 207])
def test_each_row_has_its_own_word_by_its_trace(connected: Connect, run: FakeRunContext, status: int) -> None:
    said = complete(result("2"), result("0"), errors=[error("1", message="Bad email")], numErrors=1)
    with scripted_server(Canned(status, said)) as script:
        outcomes = connected(script.url).send(changes("a-user", "b-user", "c-user"), run)
    assert outcomes == [
        Outcome("delivered", status),
        Outcome("rejected", status, "validation_error", "Bad email"),
        Outcome("delivered", status),
    ]


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        # neither a result nor an error
        (complete(), "???"),
        (complete(result("0"), result("2")), "d?d"),
        # without a trace id: matched by user
        (complete(result(user="c-user"), result(user="a-user"), result(user="b-user")), "ddd"),
        (complete(result(user="C-USER"), result(user="who")), "???"),
        (complete(result(), result(), result()), "???"),
        # unknown trace ids
        (complete(result("3"), result("-1"), result("x"), result(""), result("00000000001")), "???"),
        (complete(result(1), result(True), result(None), result(["1"])), "???"),
        (complete(result("0"), result("0"), result("0")), "d??"),
        # trace id and user contradict each other, and do not
        (complete(result("0", user="b-user")), "???"),
        (complete(result("0", user="a-user"), result("1", user="another form of b-user")), "d??"),
        # both a result and an error
        (complete(result("0"), result("1"), errors=[error("1")]), "dr?"),
        (complete(result("0"), errors=[error("0", "1")]), "rr?"),
        # errors by the user's id, and temporary ones
        (complete(result("0"), errors=[error(context={"ids": ["b-user", "who"]})]), "dr?"),
        (
            complete(errors=[error("0", category="RATE_LIMITS"), error("1", status="503"), error("2", status="400")]),
            "??r",
        ),
        (complete(errors=[error("0", status="500"), error("0")]), "r??"),
        (complete(errors=[error("0"), error("0", status="500")]), "r??"),
        (complete(result("0"), errors=[error(status="503")]), "d??"),
        # a batch that is pending or was cancelled
        (complete(result("0")) | {"status": "PENDING"}, "???"),
        (complete(result("0")) | {"status": "CANCELED"}, "???"),
        (complete(result("0")) | {"status": None}, "d??"),
        # items of another shape
        (complete("0", 0, None, ["0"], {"properties": "b-user"}, result("2")), "??d"),
        # missing fields
        ({"results": [result("0")]}, "d??"),
        ({"errors": [error("1")]}, "?r?"),
        ({"results": None, "errors": []}, "???"),
    ],
)
def test_what_is_not_understood_is_no_success(body: Any, kinds: str) -> None:
    outcomes = verdicts(Reply(200, {}, "", body), changes("a-user", "b-user", "c-user"), ID)
    assert "".join({"delivered": "d", "rejected": "r", "deferred": "?"}[each.kind] for each in outcomes) == kinds


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        "COMPLETE",
        {"status": "COMPLETE"},
        {"results": {"0": "ok"}},
        {"results": "all"},
        {"results": [], "errors": "none"},
        {"message": "success"},
    ],
)
def test_a_reply_of_unknown_shape_says_nothing_of_any_row(connected: Connect, run: FakeRunContext, body: Any) -> None:
    with scripted_server(Canned(200, body)) as script, pytest.raises(UnavailableError) as failure:
        connected(script.url).send(changes("a", "b"), run)
    assert failure.value.code == "unknown_reply"


@pytest.mark.parametrize(
    "stray", [error(), error("7"), error(context=None), {}, "bad", None, error(context={"ids": ["x"]})]
)
def test_an_error_that_names_no_row_has_the_batch_halved_until_it_stands_alone(stray: Any) -> None:
    reply = Reply(207, {}, "", complete(result("0"), errors=[stray]))
    with pytest.raises(BatchRefusedError) as refusal:
        verdicts(reply, changes("a-user", "b-user"), ID)
    assert refusal.value.http_status == 207
    (alone,) = verdicts(reply, changes("a-user"), ID)
    assert (alone.kind, alone.http_status) == ("rejected", 207)


ODDITIES = (
    st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from(["0", "1", "9", "a-user", "b-user", "", "500"])
)
USERS = st.dictionaries(st.sampled_from([ID, "id"]), ODDITIES, max_size=2)
RESULTS = st.fixed_dictionaries(
    {}, optional={"objectWriteTraceId": ODDITIES, "properties": USERS | ODDITIES, "id": ODDITIES}
)
CONTEXTS = st.fixed_dictionaries(
    {}, optional={"objectWriteTraceId": st.lists(ODDITIES, max_size=2) | ODDITIES, "ids": ODDITIES}
)
ERRORS = st.fixed_dictionaries({}, optional={"context": CONTEXTS | ODDITIES, "status": ODDITIES, "message": ODDITIES})


@given(
    st.lists(RESULTS | ODDITIES, max_size=4) | ODDITIES,
    st.lists(ERRORS | ODDITIES, max_size=3) | ODDITIES,
    st.sampled_from(["COMPLETE", "PENDING", "CANCELED", None]),
)
def test_whatever_it_says_a_row_is_delivered_only_where_a_result_names_it(
    results: Any, errors: Any, status: Any
) -> None:
    batch = changes("a-user", "b-user")
    try:
        outcomes = verdicts(Reply(207, {}, "", {"status": status, "results": results, "errors": errors}), batch, ID)
    except (BatchRefusedError, UnavailableError):
        return
    assert len(outcomes) == 2
    for row, outcome in enumerate(outcomes):
        names = [r for r in results or [] if isinstance(r, dict) and names_row(r, row, batch[row].external_id)]
        blames = [e for e in errors or [] if isinstance(e, dict) and str(row) in traces_of(e)]
        if outcome.kind == "delivered":
            assert names
            assert not blames
            assert status in ("COMPLETE", None)


def names_row(said: dict[str, Any], row: int, external_id: str) -> bool:
    properties = said.get("properties")
    return said.get("objectWriteTraceId") == str(row) or (
        isinstance(properties, dict) and properties.get(ID) == external_id
    )


def traces_of(said: dict[str, Any]) -> list[Any]:
    context = said.get("context")
    traces = context.get("objectWriteTraceId") if isinstance(context, dict) else None
    return traces if isinstance(traces, list) else [traces]


# Contacts shared by two users


@pytest.mark.parametrize(
    ("results", "outcomes"),
    [
        # a result for another user: our user's outcome is unknown
        ([result("0", user="bob")], ["deferred collision", "deferred unconfirmed"]),
        ([result("0", user="zoe"), result("1", user="ADA")], ["deferred collision", "delivered None"]),
        # the same contact for both, which each run would overwrite again
        ([result("0", user="ada"), result("1", user="ada")], ["delivered None", "rejected collision"]),
        ([result("0", user="ADA"), result("1", user="ADA")], ["rejected collision", "delivered None"]),
        ([result("0", id="7"), result("1", id="7")], ["rejected collision", "rejected collision"]),
        ([result("0", id=7), result("1", id="7")], ["rejected collision", "rejected collision"]),
        ([result(user="ada", id="7"), result(user="ADA", id="7")], ["rejected collision", "rejected collision"]),
        # one contact each
        ([result("0", user="ada"), result("1", user="ADA")], ["delivered None", "delivered None"]),
        ([result("0", id="7"), result("0", id="7"), result("1", id="8")], ["delivered None", "delivered None"]),
    ],
)
def test_two_users_who_are_one_contact_to_hubspot_are_told_as_a_collision(
    results: list[Any], outcomes: list[str]
) -> None:
    said = verdicts(Reply(200, {}, "", complete(*results)), changes("ada", "ADA"), ID)
    assert [f"{each.kind} {each.code}" for each in said] == outcomes
    assert all(not each.reason or "ada" not in each.reason.lower() for each in said)


def test_two_users_of_one_contact_are_told_also_in_batches_of_their_own(
    connected: Connect, run: FakeRunContext
) -> None:
    replies = [Canned(200, complete(result("0", user=user, id="7"))) for user in ("ada", "ADA", "ada")]
    with scripted_server(*replies) as script:
        hubspot = connected(script.url)
        said = [hubspot.send(changes(user), run)[0] for user in ("ada", "ADA", "ada")]
    assert [f"{each.kind} {each.code}" for each in said] == ["delivered None", "rejected collision", "delivered None"]


# Meaning of a row's error

VALIDATION = "Property values were not valid: "
QUOTING = VALIDATION + '[{"message":"\\"error\\":\\"RATE_LIMITS\\"","error":"INVALID_OPTION"}]'


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"status": "423"}, "deferred locked"),
        ({"status": 423}, "deferred locked"),
        ({"status": "477"}, "deferred unavailable"),
        ({"status": "408"}, "deferred timeout"),
        ({"status": "429"}, "deferred throttled"),
        ({"status": "503"}, "deferred unavailable"),
        ({"category": "RATE_LIMITS"}, "deferred throttled"),
        ({"category": "TRANSIENT_ERROR"}, "deferred transient_error"),
        ({"category": "OBJECT_LOCKED"}, "deferred object_locked"),
        ({"category": "SERVICE_UNAVAILABLE"}, "deferred service_unavailable"),
        ({"category": "INTERNAL_ERROR"}, "deferred internal_error"),
        ({"category": "REQUEST_TIMEOUT"}, "deferred request_timeout"),
        ({"subCategory": "CONTACT_TEMPORARILY_LOCKED"}, "deferred contact_temporarily_locked"),
        ({"status": "400", "category": "CONFLICT"}, "rejected conflict"),
        ({"status": "404", "category": "OBJECT_NOT_FOUND"}, "rejected object_not_found"),
        # A message that only quotes such a code is about its row.
        ({"message": "OBJECT_LOCKED, RATE_LIMITS and 503 are not allowed here"}, "rejected validation_error"),
        ({"message": QUOTING}, "rejected invalid_option"),
    ],
)
def test_not_now_said_of_a_row_is_deferred_with_its_code(said: dict[str, Any], outcome: str) -> None:
    reply = Reply(207, {}, "", complete(errors=[error("0", **said)]))
    (alone,) = verdicts(reply, changes("ada"), ID)
    assert f"{alone.kind} {alone.code}" == outcome


@pytest.mark.parametrize(
    "said",
    [
        {"message": VALIDATION + '[{"isValid":false,"error":"PROPERTY_DOESNT_EXIST","name":"churn_probability"}]'},
        {"message": VALIDATION + '[{"error":"INVALID_OPTION"},{"error":"PROPERTY_DOESNT_EXIST"}]'},
        {"errors": [{"code": "PROPERTY_DOESNT_EXIST"}]},
        {"errors": [{"subCategory": "PROPERTY_NOT_FOUND"}]},
        {"category": "MISSING_SCOPES"},
        {"category": "PROPERTY_DOESNT_EXIST", "context": {}},
        {"errors": [{"code": "READ_ONLY_VALUE"}], "status": "503"},
    ],
)
def test_a_fault_of_configuration_said_of_a_row_stops_the_run_and_rejects_nobody(said: dict[str, Any]) -> None:
    body = complete(result("1"), errors=[error("0", **said), error("2")])
    with pytest.raises(MisconfiguredError, match="No user was set aside") as stop:
        verdicts(Reply(207, {}, "", body), changes("ada", "bob", "eve"), ID)
    assert [each.kind for each in stop.value.outcomes] == ["deferred", "delivered", "rejected"]
    assert stop.value.exit_code == 2
