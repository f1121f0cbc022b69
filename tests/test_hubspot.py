"""Do upserts reach HubSpot whatever happens on the way, and is only its own word for a row taken for a success? Real HTTP."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from crm_sync.changes import Change
from crm_sync.destination import BatchRefusedError, Outcome, OutOfTimeError, UnavailableError
from crm_sync.destinations.connect import ADAPTERS, check_host
from crm_sync.destinations.hubspot import HubSpot, payload
from crm_sync.destinations.hubspot_replies import heard, verdicts
from crm_sync.destinations.pacing import Heard
from crm_sync.destinations.transport import Reply
from sandbox.crm_server import LocalCrm
from tests.crm_wire_kit import Asked, Patience, Said, saying
from tests.hubspot_kit import (
    ERASE,
    ID,
    KEY,
    ODD_IDS,
    UPSERT,
    as_described,
    asked_as,
    changes,
    connecting,
    post,
)
from warehouse.errors import ContractError, WinbackError

DELIVERED = Outcome("delivered", 200)
Connect = Callable[..., HubSpot]


class Clock:
    """The CRM's."""

    now = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


class Together(Patience):
    """A run and a CRM for which the same time passes."""

    clock_of_crm: Clock

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.clock_of_crm.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def crm(tmp_path: Path, clock: Clock) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db", api_key=KEY, clock=clock) as server:
        yield server


@pytest.fixture
def run() -> Patience:
    return Patience()


@pytest.fixture
def together(clock: Clock) -> Together:
    run = Together()
    run.clock_of_crm = clock
    return run


@pytest.fixture
def connected() -> Iterator[Connect]:
    with connecting() as connect:
        yield connect


def fault(crm: LocalCrm, **body: object) -> None:
    assert requests.post(crm.url + "/_control/faults", json=body, timeout=10).status_code == 200


def result(trace: object = None, user: str | None = None, **more: Any) -> dict[str, Any]:
    said = {"id": "901", "new": True, "properties": {} if user is None else {ID: user}, **more}
    return said if trace is None else said | {"objectWriteTraceId": trace}


def error(*traces: object, **more: Any) -> dict[str, Any]:
    said = {"status": "error", "category": "VALIDATION_ERROR", "message": "Property values were not valid"}
    return said | {"context": {"objectWriteTraceId": list(traces)}} | more


def complete(*results: Any, errors: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "status": "COMPLETE",
        "results": list(results),
        **({"errors": errors} if errors is not None else {}),
        **more,
    }


# What is sent


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.82, "0.82"),
        (1.0, "1.0"),
        (0.0001, "0.0001"),
        (1e-07, "0.0000001"),
        (1e22, "10000000000000000000000"),
        (3, "3"),
        (True, "true"),
        (False, "false"),
        ("high", "high"),
        ("2026-06-15T10:00:00Z", "2026-06-15T10:00:00Z"),
        (["short last visit", "many errors"], "short last visit;many errors"),
        (["one"], "one"),
        ([], ""),
        (None, ""),
    ],
)
def test_every_value_is_sent_as_text(value: Any, text: str) -> None:
    (sent,) = payload([Change("ada", {"p": value})], ID)["inputs"]
    assert sent == {"id": "ada", "idProperty": ID, "objectWriteTraceId": "0", "properties": {ID: "ada", "p": text}}


def test_a_request_says_whose_it_is_and_traces_no_user(connected: Connect, run: Patience) -> None:
    with saying(Said(200, complete(result("0"), result("1")))) as script:
        connected(script.url).send(changes("ada", "bob"), run)
    (asked,) = script.asked
    assert (asked.method, asked.path) == ("POST", UPSERT)
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["user-agent"] == "winback (00000007-test)"
    assert [each["objectWriteTraceId"] for each in asked.body["inputs"]] == ["0", "1"]


def test_object_type_id_property_and_version_are_options(connected: Connect, run: Patience) -> None:
    with saying(Said(200, complete(result("0")))) as script:
        options = {"object_type": "2-123456", "id_property": "tax_user_id", "api_path": "/crm/v4"}
        connected(script.url, **options).send(changes("ada"), run)
    (asked,) = script.asked
    assert asked.path == "/crm/v4/objects/2-123456/batch/upsert"
    assert asked.body["inputs"][0]["idProperty"] == "tax_user_id"


def test_the_property_that_identifies_is_never_overwritten_by_a_field(connected: Connect, run: Patience) -> None:
    with saying(Said(200, complete(result("0")))) as script, pytest.raises(ContractError, match="winback_user_id"):
        connected(script.url).send([Change("ada", {ID: "bob"})], run)
    assert script.asked == []


@pytest.mark.parametrize("name", ["Churn", "1churn", "churn-risk", "churn risk", "_churn", "c" * 101, ""])
def test_a_name_that_hubspot_cannot_have_is_none_for_a_property(name: str) -> None:
    pattern = ADAPTERS["hubspot"].property_pattern
    assert not pattern.fullmatch(name)
    assert pattern.fullmatch("churn_risk_2")


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("https://api.hubapi.com", True),
        ("https://api-eu1.hubapi.com", True),
        ("https://nothubapi.com", False),
        ("https://api.hubapi.com.example.org", False),
    ],
)
def test_the_key_goes_to_hubspot_s_own_hosts_only(url: str, is_allowed: bool) -> None:
    with nullcontext() if is_allowed else pytest.raises(ContractError, match="WINBACK_CRM_URL"):
        check_host(ADAPTERS["hubspot"], url, ())


# What it says of each row


@pytest.mark.parametrize("status", [200, 201, 207])
def test_each_row_has_its_own_word_by_its_trace(connected: Connect, run: Patience, status: int) -> None:
    said = complete(result("2"), result("0"), errors=[error("1", message="Bad email")], numErrors=1)
    with saying(Said(status, said)) as script:
        outcomes = connected(script.url).send(changes("a-user", "b-user", "c-user"), run)
    assert outcomes == [
        Outcome("delivered", status),
        Outcome("rejected", status, "validation_error", "Bad email"),
        Outcome("delivered", status),
    ]


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        # in neither
        (complete(), "???"),
        (complete(result("0"), result("2")), "d?d"),
        # without a trace: by the user
        (complete(result(user="c-user"), result(user="a-user"), result(user="b-user")), "ddd"),
        (complete(result(user="C-USER"), result(user="who")), "???"),
        (complete(result(), result(), result()), "???"),
        # traces that are none of ours
        (complete(result("3"), result("-1"), result("x"), result(""), result("00000000001")), "???"),
        (complete(result(1), result(True), result(None), result(["1"])), "???"),
        (complete(result("0"), result("0"), result("0")), "d??"),
        # a trace and a user that contradict each other, and ones that do not
        (complete(result("0", user="b-user")), "???"),
        (complete(result("0", user="a-user"), result("1", user="another form of b-user")), "dd?"),
        # in both
        (complete(result("0"), result("1"), errors=[error("1")]), "dr?"),
        (complete(result("0"), errors=[error("0", "1")]), "rr?"),
        # errors by the user's id, and passing ones
        (complete(result("0"), errors=[error(context={"ids": ["b-user", "who"]})]), "dr?"),
        (
            complete(errors=[error("0", category="RATE_LIMITS"), error("1", status="503"), error("2", status="400")]),
            "??r",
        ),
        (complete(errors=[error("0", status="500"), error("0")]), "r??"),
        (complete(errors=[error("0"), error("0", status="500")]), "r??"),
        (complete(result("0"), errors=[error(status="503")]), "d??"),
        # a batch that is not over, or was given up
        (complete(result("0")) | {"status": "PENDING"}, "???"),
        (complete(result("0")) | {"status": "CANCELED"}, "???"),
        (complete(result("0")) | {"status": None}, "d??"),
        # items of another shape
        (complete("0", 0, None, ["0"], {"properties": "b-user"}, result("2")), "??d"),
        # fields that are missing
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
def test_a_reply_of_unknown_shape_says_nothing_of_any_row(connected: Connect, run: Patience, body: Any) -> None:
    with saying(Said(200, body)) as script, pytest.raises(UnavailableError) as failure:
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


@settings(deadline=None)
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


# What its messages may hold

MEAN = "Ada Lovelace <ada@example.org> +44 20 1234"


@pytest.mark.parametrize(
    ("message", "more", "code", "reason"),
    [
        (
            'Property values were not valid: [{"isValid":false,"message":"'
            + MEAN
            + ']; not valid","error":"INVALID_INTEGER",'
            '"name":"churn_probability"}]',
            {},
            "invalid_integer",
            "Property values were not valid: churn_probability",
        ),
        (
            f"Duplicate IDs found in batch input: [{MEAN}]. IDs must be unique",
            {},
            "validation_error",
            "Duplicate IDs found in batch input",
        ),
        (f"The contact {MEAN} cannot be written", {}, "validation_error", None),
        ("discount was not valid", {"errors": [{"code": "INVALID_LONG"}]}, "invalid_long", "discount was not valid"),
        ("No", {"category": None, "errors": [{"code": MEAN}]}, "unknown_error", "No"),
        (None, {"category": MEAN}, "unknown_error", None),
        (["x"], {"category": {"a": 1}, "errors": "x"}, "unknown_error", None),
    ],
)
def test_what_a_message_quotes_of_a_user_is_not_kept(message: Any, more: Any, code: str, reason: str | None) -> None:
    batch = [Change("Ada Lovelace", {"churn_probability": 0.5, "churn_reasons": ["Lovelace"]})]
    reply = Reply(207, {}, "", complete(errors=[error("0", message=message, **more)]))
    (outcome,) = verdicts(reply, batch, ID)
    assert outcome.code == code
    assert not any(part in f"{outcome}" for part in ("Ada", "Lovelace", "ada@", "example", "+44", "1234"))
    if reason:
        assert outcome.reason == reason


def test_a_refusal_that_quotes_a_user_is_not_kept_either(connected: Connect, run: Patience) -> None:
    body = {"status": "error", "message": f"Contact Ada of {MEAN} is bad", "category": "VALIDATION_ERROR"}
    with saying(Said(400, body)) as script, pytest.raises(BatchRefusedError) as refusal:
        connected(script.url).send(changes("Ada"), run)
    assert (refusal.value.http_status, refusal.value.code) == (400, "validation_error")
    assert "Ada" not in str(refusal.value.reason)
    assert "ada@" not in str(refusal.value.reason)


def test_the_key_and_the_users_appear_in_no_log_and_no_error(
    connected: Connect, run: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    user = "user-" + "canary"  # in two parts: a traceback quotes this line
    for status in (400, 401, 404, 429, 500):
        with saying(Said(status, {"message": user})) as script:
            try:
                connected(script.url, budget_seconds=1e-9).send(changes(user), run)
            except WinbackError as failure:
                told.append("".join(traceback.format_exception(failure)) + str(vars(failure)))
    assert len(told) == 5
    assert "canary" not in "".join(told) + caplog.text


# What is refused, and what passes


@pytest.mark.parametrize("status", [400, 402, 405, 409, 410, 413, 414, 415, 422, 431, 451])
def test_a_refusal_of_the_batch_is_not_tried_again(connected: Connect, run: Patience, status: int) -> None:
    with saying(Said(status, b"<html>no</html>"), Said(200, complete(result("0")))) as script:
        with pytest.raises(BatchRefusedError) as refusal:
            connected(script.url).send(changes("a"), run)
        assert (refusal.value.http_status, refusal.value.code) == (status, f"http_{status}")
    assert len(script.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 403, 404])
def test_wrong_credentials_address_or_a_redirect_name_the_settings(
    connected: Connect, run: Patience, status: int
) -> None:
    said = Said(status, {"category": "MISSING_SCOPES"}, {"Location": "http://127.0.0.1:9/"})
    with saying(said) as script, pytest.raises(ContractError, match="WINBACK_CRM_API_KEY"):
        connected(script.url).send(changes("a"), run)
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    "message",
    [
        "Unable to perform update/upsert by non-unique 0-1 property winback_user_id in portal ID 1",
        'Property values were not valid: [{"isValid":false,"error":"PROPERTY_DOESNT_EXIST","name":"churn_probability"}]',
    ],
)
def test_what_only_a_person_can_mend_stops_the_run_instead_of_rejecting_everybody(
    connected: Connect, run: Patience, message: str
) -> None:
    body = {"status": "error", "category": "VALIDATION_ERROR", "message": message}
    with saying(Said(400, body)) as script, pytest.raises(ContractError, match="winback doctor"):
        connected(script.url).send(changes("a", "b"), run)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 521, 522, 523, 524, 525, 526])
def test_a_passing_fault_is_tried_again(connected: Connect, run: Patience, status: int) -> None:
    with saying(*[Said(status, {})] * 2, Said(200, complete(result("0")))) as script:
        assert connected(script.url).send(changes("a"), run) == [DELIVERED]
    assert len(script.asked) == 3
    assert [each.content for each in script.asked] == [script.asked[0].content] * 3


@pytest.mark.parametrize("content", [b"", b"{", b"<html>", b"\xff\xfe", b"null", b"[" * 100_000])
def test_a_success_without_json_is_a_success_for_nobody(connected: Connect, run: Patience, content: bytes) -> None:
    with saying(Said(200, content)) as script, pytest.raises(UnavailableError):
        connected(script.url, budget_seconds=1e-9).send(changes("a"), run)


def test_a_lock_is_waited_out_two_seconds_at_a_time_and_rejects_nobody(connected: Connect, run: Patience) -> None:
    with saying(*[Said(423, {})] * 3, Said(200, complete(result("0")))) as script:
        assert connected(script.url, limits=[]).send(changes("a"), run) == [DELIVERED]
    assert run.waits == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(("status", "code"), [(423, "throttled"), (477, "unavailable")])
def test_an_account_that_stays_locked_or_is_being_moved_is_left_for_a_later_run(
    connected: Connect, run: Patience, status: int, code: str
) -> None:
    with saying(Said(status, {"message": "no"}, {"Retry-After": "7200"} if status == 477 else {})) as script:
        with pytest.raises(UnavailableError) as failure:
            connected(script.url).send(changes("a"), run)
        assert failure.value.code == code
    assert sum(run.waits) <= 30


# The limit


def limited(policy: str | None, headers: dict[str, str] | None = None, status: int = 429) -> Reply:
    body = {"status": "error", "errorType": "RATE_LIMIT"} | ({"policyName": policy} if policy else {})
    names = {f"x-hubspot-ratelimit-{name}" if name != "retry-after" else name: v for name, v in (headers or {}).items()}
    return Reply(status, names, json.dumps(body))


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (limited("TEN_SECONDLY_ROLLING"), Heard(10)),
        (limited("TEN_SECONDLY_ROLLING", {"interval-milliseconds": "11000"}), Heard(11)),
        (limited("SECONDLY", {"interval-milliseconds": "10000"}), Heard(1)),
        (limited("DAILY"), Heard(10, is_spent=True)),
        (limited(None), Heard(10)),
        (limited(None, {"daily-remaining": "0"}), Heard(10, is_spent=True)),
        (limited("TEN_SECONDLY_ROLLING", {"daily-remaining": "0"}), Heard(10)),
        (limited("TEN_SECONDLY_ROLLING", {"retry-after": "4"}), Heard(4)),
        (limited("TEN_SECONDLY_ROLLING", {"retry-after": "0"}), Heard(10)),
        (limited("SOMETHING_NEW", {"retry-after": "soon"}), Heard(10)),
        (Reply(429, {}, "<html>"), Heard(10)),
        (Reply(429, {}, "[" * 100_000), Heard(10)),
        (Reply(429, {}, "[]"), Heard(10)),
        (limited(None, {"max": "100", "remaining": "7", "interval-milliseconds": "10000"}, 200), Heard(None, 100, 7)),
        (limited(None, {"max": "100", "remaining": "7"}, 200), Heard(None, 100, 7)),
        # a limit of another window is not the one we count by
        (limited(None, {"max": "19", "remaining": "7", "interval-milliseconds": "1000"}, 200), Heard(None)),
        (limited(None, {"max": "many", "remaining": "-1", "daily-remaining": "0"}, 200), Heard(None)),
        (limited(None, {"retry-after": "9"}, 503), Heard(9)),
        (limited(None, status=423), Heard(2)),
        (limited(None, {"retry-after": "5"}, 423), Heard(5)),
    ],
)
def test_headers_and_the_policy_say_how_long_to_wait(reply: Reply, says: Heard) -> None:
    assert heard(reply, 10) == says


@pytest.mark.parametrize(("policy", "seconds"), [("TEN_SECONDLY_ROLLING", 10), ("SECONDLY", 1)])
def test_a_429_is_waited_out_by_its_policy(connected: Connect, run: Patience, policy: str, seconds: float) -> None:
    with saying(Said(429, {"policyName": policy}), Said(200, complete(result("0")))) as script:
        assert connected(script.url).send(changes("a"), run) == [DELIVERED]
    assert sum(run.waits) == seconds


def test_a_daily_limit_that_is_spent_ends_the_run_at_once(connected: Connect, run: Patience) -> None:
    with saying(Said(429, {"policyName": "DAILY"})) as script, pytest.raises(UnavailableError) as failure:
        connected(script.url).send(changes("a"), run)
    assert (failure.value.code, len(script.asked), run.waits) == ("throttled", 1, [])


def test_a_run_that_has_no_time_for_the_wait_leaves_before_it(connected: Connect) -> None:
    run = Patience(seconds_left=5)
    with saying(Said(429, {"policyName": "TEN_SECONDLY_ROLLING"})) as script, pytest.raises(OutOfTimeError) as left:
        connected(script.url).send(changes("a"), run)
    assert (left.value.code, run.waits) == ("deadline", [])


def test_an_account_with_less_than_we_assume_is_not_asked_for_more(connected: Connect, run: Patience) -> None:
    headers = {"X-HubSpot-RateLimit-Max": "2", "X-HubSpot-RateLimit-Interval-Milliseconds": "10000"}
    with saying(Said(200, complete(result("0")), headers)) as script:
        hubspot = connected(script.url)
        for _ in range(5):
            hubspot.send(changes("a"), run)
    assert run.clock() >= 20  # two windows of 2, and one more


def test_no_window_of_the_fake_s_sees_more_than_190(crm: LocalCrm, connected: Connect, together: Together) -> None:
    run, hubspot = together, connected(crm.url)
    for number in range(400):
        hubspot.send(changes(f"u{number}"), run)
    assert crm.desk.allowances["hubspot.batch"].refused == 0
    assert run.clock() <= 21.5  # 400 at 19 a second


# The fake


def test_a_full_batch_is_100_users_and_lands_whole_and_typed(crm: LocalCrm, connected: Connect, run: Patience) -> None:
    hubspot = connected(crm.url)
    attributes = {
        "churn_probability": 0.82,
        "churn_risk_band": "high",
        "churn_reasons": ["short last visit", "many errors"],
        "churn_scored_at": "2026-06-15T10:00:00Z",
        "voucher_eligible": True,
    }
    assert hubspot.max_batch == 100
    batch = changes(*(f"user-{n}" for n in range(hubspot.max_batch)), **attributes)
    assert hubspot.send(batch, run) == [DELIVERED] * 100
    assert crm.store.profiles() == {f"user-{n}": attributes for n in range(100)}
    assert run.waits == []


def test_one_more_than_hubspot_takes_is_refused_and_changes_nothing(
    crm: LocalCrm, connected: Connect, run: Patience
) -> None:
    with pytest.raises(BatchRefusedError) as refusal:
        connected(crm.url).send(changes(*map(str, range(101))), run)
    assert (refusal.value.http_status, refusal.value.code) == (400, "validation_error")
    assert crm.store.profiles() == {}


def test_a_clear_removes_the_property_and_sending_twice_changes_nothing(
    crm: LocalCrm, connected: Connect, run: Patience
) -> None:
    hubspot = connected(crm.url)
    hubspot.send(changes("ada", voucher_eligible=True, churn_probability=0.7, churn_reasons=["a"]), run)
    for _ in range(2):
        cleared = changes("ada", voucher_eligible=False, churn_probability=None, churn_reasons=None)
        assert hubspot.send(cleared, run) == [DELIVERED]
    assert crm.store.profile("ada") == {"voucher_eligible": False}
    assert [change.field for change in crm.store.history("ada")].count("voucher_eligible") == 2


def test_what_is_not_sent_stays_as_it_is(crm: LocalCrm, connected: Connect, run: Patience) -> None:
    hubspot = connected(crm.url)
    hubspot.send(changes("ada", churn_risk_band="high", churn_probability=0.7), run)
    hubspot.send(changes("ada", churn_probability=0.8), run)
    assert crm.store.profile("ada") == {"churn_risk_band": "high", "churn_probability": 0.8}


def test_ids_with_odd_characters_stay_themselves(crm: LocalCrm, connected: Connect, run: Patience) -> None:
    hubspot = connected(crm.url)
    assert hubspot.send(changes(*ODD_IDS), run) == [DELIVERED] * len(ODD_IDS)
    assert sorted(crm.store.profiles()) == sorted(ODD_IDS)
    assert {each.kind for each in hubspot.erase(ODD_IDS, run)} == {"delivered"}
    assert crm.store.profiles() == {}


def test_an_error_for_a_row_is_that_row_s_outcome_and_the_others_land(
    crm: LocalCrm, connected: Connect, run: Patience
) -> None:
    fault(crm, kind="row_error", external_ids=["b-user", "d-user"])
    delivered = Outcome("delivered", 207)
    refused = Outcome("rejected", 207, "validation_error", "The contact is on the blocklist")
    outcomes = connected(crm.url).send(changes("a-user", "b-user", "c-user", "d-user"), run)
    assert outcomes == [delivered, refused, delivered, refused]
    assert sorted(crm.store.profiles()) == ["a-user", "c-user"]


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"churn_probability": "ada@example.org"}, "invalid_integer"),
        ({"churn_probability": float("nan")}, "invalid_integer"),
        ({"voucher_eligible": "yes"}, "invalid_option"),
        ({"churn_scored_at": "yesterday"}, "invalid_date"),
        ({"no_such_property": "x"}, "property_doesnt_exist"),
    ],
)
def test_a_value_of_another_type_rejects_its_row_and_names_the_property(
    crm: LocalCrm, connected: Connect, run: Patience, attributes: dict[str, Any], code: str
) -> None:
    batch = [Change("a-user", attributes), *changes("b-user")]
    reason = f"Property values were not valid: {next(iter(attributes))}"
    assert connected(crm.url).send(batch, run) == [
        Outcome("rejected", 207, code, reason),
        Outcome("delivered", 207),
    ]
    assert crm.store.profiles() == {"b-user": {"churn_probability": 0.5}}


def test_the_limit_of_the_fake_is_waited_out_and_the_daily_one_is_not(
    crm: LocalCrm, connected: Connect, together: Together
) -> None:
    crm.desk.allowances["hubspot.batch"].requests = 1
    post(crm, UPSERT, payload(changes("z"), ID))
    run, hubspot = together, connected(crm.url)
    assert hubspot.send(changes("a"), run) == [DELIVERED]
    assert run.clock() == 10
    crm.desk.allowances["hubspot.batch"].requests, crm.desk.allowances["hubspot.daily"].requests = 100, 1
    with pytest.raises(UnavailableError) as failure:
        hubspot.send(changes("b"), together)
    assert failure.value.code == "throttled"


@pytest.mark.parametrize("kind", ["reset", "lose_reply", "garbage", "duplicate_reply"])
def test_a_lost_reply_is_asked_for_again_and_the_state_is_applied_once(
    crm: LocalCrm, connected: Connect, run: Patience, kind: str
) -> None:
    fault(crm, kind=kind, times=2, endpoint="hubspot.batch")
    assert connected(crm.url).send(changes("a", "b"), run) == [DELIVERED] * 2
    assert crm.store.profiles() == {"a": {"churn_probability": 0.5}, "b": {"churn_probability": 0.5}}
    assert [(change.before, change.after) for change in crm.store.history("a")] == [(None, 0.5)]


def test_a_wrong_key_names_the_settings_and_changes_nothing(crm: LocalCrm, connected: Connect, run: Patience) -> None:
    with pytest.raises(ContractError, match="WINBACK_CRM_API_KEY"):
        connected(crm.url, key="another").send(changes("a"), run)
    assert crm.store.profiles() == {}


# Erasure


def test_an_erased_user_is_gone_and_one_it_does_not_know_is_as_well(
    crm: LocalCrm, connected: Connect, run: Patience
) -> None:
    hubspot = connected(crm.url)
    hubspot.send(changes("ada", "bob"), run)
    assert hubspot.erase(["ada", "who"], run) == [Outcome("delivered", 204), Outcome("delivered", 404, "not_found")]
    assert list(crm.store.profiles()) == ["bob"]
    assert crm.store.history("ada") == []


def test_each_erasure_is_a_request_that_names_the_property(connected: Connect, run: Patience) -> None:
    with saying(Said(204)) as script:
        assert connected(script.url).erase(["ada", "bob"], run) == [Outcome("delivered", 204)] * 2
    assert [(each.method, each.path, each.body) for each in script.asked] == [
        ("POST", ERASE, {"objectId": "ada", "idProperty": ID}),
        ("POST", ERASE, {"objectId": "bob", "idProperty": ID}),
    ]


def test_an_erasure_that_is_refused_is_rejected_for_that_user_only(connected: Connect, run: Patience) -> None:
    said = Said(400, {"message": "ada has a reason", "category": "VALIDATION_ERROR"})
    with saying(said, Said(204)) as script:
        assert connected(script.url).erase(["ada", "bob"], run) == [
            Outcome("rejected", 400, "validation_error", "... has a reason"),
            Outcome("delivered", 204),
        ]


@pytest.mark.parametrize("body", [b"<html>Not found</html>", {"message": "no"}, b"", []])
def test_a_path_that_is_not_there_is_no_user_that_is_not_there(connected: Connect, run: Patience, body: Any) -> None:
    with saying(Said(404, body)) as script, pytest.raises(ContractError, match="WINBACK_CRM_URL"):
        connected(script.url).erase(["ada"], run)


def test_a_deletion_answered_in_an_unknown_way_is_none(connected: Connect, run: Patience) -> None:
    with saying(Said(200, {"status": "queued"})) as script, pytest.raises(UnavailableError) as failure:
        connected(script.url).erase(["ada"], run)
    assert failure.value.code == "unknown_reply"


# The vendor's description


EVERYTHING = [
    Change("ada", {"a": 0.5, "b": True, "c": None, "d": ["x", "y"], "e": "2026-06-15T10:00:00Z", "f": "text"}),
    *(Change(each, {"a": None}) for each in ODD_IDS),
]


def test_every_request_matches_the_vendors_description(connected: Connect, run: Patience) -> None:
    with saying(Said(200, complete()), Said(204)) as script:
        hubspot = connected(script.url)
        hubspot.send(EVERYTHING, run)
        hubspot.erase(ODD_IDS, run)
        openapi = as_described(script.url)
        for asked in script.asked:
            openapi.validate_request(asked_as(script.url, asked))
    assert {asked.path for asked in script.asked} == {UPSERT, ERASE}


def test_the_description_would_notice_a_value_that_is_no_text() -> None:
    from openapi_core.exceptions import OpenAPIError  # noqa: PLC0415

    body = {"inputs": [{"id": "ada", "idProperty": ID, "properties": {"churn_probability": 0.5}}]}
    headers = {"content-type": "application/json", "authorization": "Bearer x"}
    url = "https://api.hubapi.com"
    with pytest.raises(OpenAPIError):
        as_described(url).validate_request(asked_as(url, Asked("POST", UPSERT, headers, json.dumps(body).encode())))
