"""Do upserts reach Braze whatever happens on the way, and is only a success taken for one? Real HTTP throughout."""

import json
import logging
import math
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crm_sync.destination import BatchRefusedError, Outcome, UnavailableError
from crm_sync.destinations.braze import Braze, verdicts
from crm_sync.destinations.transport import RateLimit, Reply, RetryBudget
from crm_sync.fields import Change
from sandbox.crm_server import LocalCrm
from warehouse.errors import ContractError, WinbackError

KEY = "kEy-7f3a9c51-canary"
DELIVERED = Outcome("delivered", 201)
SUCCESS = {"message": "success"}
DATE = "Mon, 15 Jun 2026 10:00:00 GMT"  # 1,781,517,600 seconds after 1970
DATE_SECONDS = 1_781_517_600


@dataclass
class Waits:
    """A sleep that takes no time and knows how long it would have been."""

    total_seconds: float = 0.0
    longest_seconds: float = 0.0
    count: int = 0

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.total_seconds += seconds
        self.longest_seconds = max(self.longest_seconds, seconds)
        self.count += 1


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db", api_key=KEY) as server:
        yield server


def braze(url: str, waits: Waits, budget_seconds: float = 120.0, key: str = KEY) -> Braze:
    return Braze(url, key, budget=RetryBudget(budget_seconds, sleep=waits.sleep))


def changes(*external_ids: str, **attributes: Any) -> list[Change]:
    return [Change(external_id, "d1", False, attributes or {"score": 0.5}, {}) for external_id in external_ids]


def fault(crm: LocalCrm, **body: object) -> None:
    assert requests.post(crm.url + "/_control/faults", json=body, timeout=10).status_code == 200


def statuses(crm: LocalCrm) -> Any:
    return requests.get(crm.url + "/_control/requests", timeout=10).json()["by_status"]


# A server that says what it is told, for what LocalCrm would never say


@dataclass
class Said:
    """One reply. A dict as body goes as JSON; `date` is the server's clock, None for a server that has none."""

    status: int = 201
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    date: str | None = DATE

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@contextmanager
def saying(*script: Said) -> Iterator[str]:
    """Serve these replies in order, the last one for ever, and yield the server's address."""
    replies = deque(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            said = replies.popleft() if len(replies) > 1 else replies[0]
            self.send_response_only(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            if said.date:
                self.send_header("Date", said.date)
            if "Content-Length" not in said.headers:
                self.send_header("Content-Length", str(len(said.content)))
            self.end_headers()
            self.wfile.write(said.content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


# What is accepted


def test_a_full_batch_is_75_users_and_lands_whole(crm: LocalCrm, waits: Waits) -> None:
    destination = braze(crm.url, waits)
    batch = [
        Change(f"user-{n}", "d1", False, {"churn_probability": n / 100, "churn_reasons": ["a", "b"]}, {})
        for n in range(destination.max_batch)
    ]
    assert destination.send(batch) == [DELIVERED] * 75
    assert crm.store.profiles() == {
        f"user-{n}": {"churn_probability": n / 100, "churn_reasons": ["a", "b"]} for n in range(75)
    }
    assert waits.count == 0


def test_one_more_than_braze_takes_is_refused_and_changes_nothing(crm: LocalCrm, waits: Waits) -> None:
    with pytest.raises(BatchRefusedError) as refusal:
        braze(crm.url, waits).send(changes(*map(str, range(76))))
    assert (refusal.value.http_status, refusal.value.error_code) == (400, "http_400")
    assert crm.store.profiles() == {}


def test_a_null_removes_the_attribute_and_sending_twice_changes_nothing(crm: LocalCrm, waits: Waits) -> None:
    destination = braze(crm.url, waits)
    destination.send(changes("ada", voucher_eligible=True, score=0.7))
    for _ in range(2):
        assert destination.send(changes("ada", voucher_eligible=False, score=None)) == [DELIVERED]
    assert crm.store.profile("ada") == {"voucher_eligible": False}
    assert [change.field for change in crm.store.history("ada")].count("voucher_eligible") == 2


def test_an_error_for_a_row_is_that_row_s_outcome_and_the_others_land(crm: LocalCrm, waits: Waits) -> None:
    fault(crm, kind="row_error", external_ids=["b", "d"])
    refused = Outcome("rejected", 201, "provided_external_id_is_blacklisted_and_disallowed")
    assert braze(crm.url, waits).send(changes("a", "b", "c", "d")) == [DELIVERED, refused, DELIVERED, refused]
    assert crm.store.profiles() == {"a": {"score": 0.5}, "c": {"score": 0.5}}


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("body", [SUCCESS, {"message": "queued"}, SUCCESS | {"errors": []}, SUCCESS | {"errors": None}])
def test_a_success_that_says_so_is_one_for_every_row(status: int, body: Any, waits: Waits) -> None:
    with saying(Said(status, body)) as url:
        assert braze(url, waits).send(changes("a", "b")) == [Outcome("delivered", status)] * 2


# What is not


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"message": "ok"},
        {"message": None},
        {"message": ["success"]},
        {"errors": []},
        SUCCESS | {"errors": "all of them"},
        SUCCESS | {"errors": {"index": 0}},
        SUCCESS | {"errors": ["bad"]},
        SUCCESS | {"errors": [{}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes"}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes", "index": 3}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes", "index": -1}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes", "index": "0"}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes", "index": 0.0}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes", "index": True}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "events", "index": 0}]},
        SUCCESS | {"errors": [{"type": "bad", "input_array": "attributes", "index": 0}, None]},
    ],
)
def test_a_reply_of_unknown_shape_is_a_success_for_no_row(body: Any, waits: Waits) -> None:
    with saying(Said(201, body)) as url:
        outcomes = braze(url, waits).send(changes("a", "b", "c"))
    assert [(outcome.kind, outcome.http_status) for outcome in outcomes] == [("rejected", 201)] * 3
    assert {outcome.error_code for outcome in outcomes} <= {"unknown_reply", "unknown_error_shape"}


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.sampled_from(["success", "attributes", "index", "bad"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["index", "input_array", "type", "message"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.sampled_from(["success", "queued", "ok", None]), st.lists(JSONS, max_size=4) | JSONS, st.integers(1, 4))
def test_any_reply_gives_every_row_one_outcome_and_no_error_goes_unheard(message: Any, errors: Any, count: int) -> None:
    outcomes = verdicts(Reply(201, {"message": message, "errors": errors}), count)
    assert len(outcomes) == count
    if message not in {"success", "queued"} or errors:
        assert any(outcome.kind == "rejected" for outcome in outcomes)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"<html>Maintenance</html>",
        b"\xff\xfe\x00",
        b'"success"',
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"message": ' + b"1" * 5_000 + b"}",
    ],
)
def test_a_success_without_a_json_object_is_tried_again(content: bytes, waits: Waits) -> None:
    with saying(Said(201, content), Said(201, SUCCESS)) as url:
        assert braze(url, waits).send(changes("a")) == [DELIVERED]
    assert waits.count == 1


def test_a_success_that_never_is_json_ends_as_unavailable(waits: Waits) -> None:
    with saying(Said(201, b"garbage")) as url, pytest.raises(UnavailableError, match="HTTP 201 without JSON"):
        braze(url, waits, budget_seconds=1e-9).send(changes("a"))


@pytest.mark.parametrize("status", [400, 402, 405, 409, 410, 413, 415, 422, 418, 431, 451])
def test_a_refusal_of_what_was_sent_is_not_tried_again(crm: LocalCrm, waits: Waits, status: int) -> None:
    fault(crm, kind="status", status=status)
    with pytest.raises(BatchRefusedError):
        braze(crm.url, waits).send(changes("a"))
    assert (waits.count, crm.store.profiles()) == (0, {})


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308, 401, 403, 404])
def test_wrong_credentials_address_or_a_redirect_name_the_settings(status: int, waits: Waits) -> None:
    elsewhere = {"Location": "http://127.0.0.1:9/users/track"}
    with saying(Said(status, {}, elsewhere), Said(201, SUCCESS)) as url, pytest.raises(ContractError) as refusal:
        braze(url, waits).send(changes("a"))
    assert str(refusal.value) == (
        f"The CRM answered HTTP {status} to /users/track. "
        "Check WINBACK_CRM_URL, WINBACK_CRM_API_KEY and the key's permissions."
    )
    assert waits.count == 0


def test_a_wrong_key_names_the_settings_and_changes_nothing(crm: LocalCrm, waits: Waits) -> None:
    with pytest.raises(ContractError, match="WINBACK_CRM_API_KEY"):
        braze(crm.url, waits, key="another").send(changes("a"))
    assert crm.store.profiles() == {}


@pytest.mark.parametrize("url", ["http://127.0.0.1:canary", "http://*canary.example", "http://127.0.0.1:99999"])
def test_what_is_no_address_names_the_setting_without_its_value(url: str, waits: Waits) -> None:
    with pytest.raises(ContractError) as refusal:
        braze(url, waits).send(changes("a"))
    assert str(refusal.value) == "WINBACK_CRM_URL is no address that a request could be sent to."
    assert waits.count == 0


# What passes


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 505, 507, 520, 522, 529, 599])
def test_a_passing_fault_is_tried_again_until_it_has_passed(status: int, waits: Waits) -> None:
    with saying(*[Said(status, {})] * 3, Said(201, SUCCESS)) as url:
        assert braze(url, waits).send(changes("a")) == [DELIVERED]
    assert waits.count == 3
    assert waits.total_seconds <= 0.5 + 1 + 2  # at most the first wait, doubled each time


@pytest.mark.parametrize("kind", ["reset", "lose_reply"])
def test_a_broken_connection_is_tried_again_and_the_state_is_applied_once(
    crm: LocalCrm, waits: Waits, kind: str
) -> None:
    fault(crm, kind=kind, times=2)
    assert braze(crm.url, waits).send(changes("a", "b")) == [DELIVERED] * 2
    assert crm.store.profiles() == {"a": {"score": 0.5}, "b": {"score": 0.5}}
    assert [(change.before, change.after) for change in crm.store.history("a")] == [(None, 0.5)]
    assert statuses(crm) == {"201": 1, "no reply": 2}


@pytest.mark.parametrize("length", ["1000", "2, 1000"])
def test_a_reply_that_breaks_off_or_contradicts_itself_is_tried_again(waits: Waits, length: str) -> None:
    with saying(Said(201, SUCCESS, {"Content-Length": length}), Said(201, SUCCESS)) as url:
        assert braze(url, waits).send(changes("a")) == [DELIVERED]
    assert waits.count == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": " 90 "}, 90),
        ({"Retry-After": "Mon, 15 Jun 2026 10:00:42 GMT"}, 42),
        ({"X-RateLimit-Retry-After": "11"}, 11),
        ({"X-RateLimit-Reset": f"{DATE_SECONDS + 3}"}, 3),
        ({"X-RateLimit-Reset": "2.5"}, 2.5),
        ({"Retry-After": "7", "X-RateLimit-Reset": "2"}, 7),
    ],
)
def test_the_wait_that_a_429_asks_for_is_kept_to_the_second(
    headers: dict[str, str], seconds: float, waits: Waits
) -> None:
    with saying(Said(429, {}, headers), Said(201, SUCCESS)) as url:
        assert braze(url, waits).send(changes("a")) == [DELIVERED]
    assert (waits.count, waits.total_seconds) == (1, seconds)


def test_a_503_that_asks_for_a_wait_gets_it(crm: LocalCrm, waits: Waits) -> None:
    fault(crm, kind="status", status=503, retry_after=60, times=2)
    assert braze(crm.url, waits, budget_seconds=3_600).send(changes("a")) == [DELIVERED]
    assert waits.total_seconds == 120


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "soon"},
        {"Retry-After": "\u00b2"},
        {"Retry-After": "0"},
        {"Retry-After": "Mon, 15 Jun 2026 09:59:00 GMT"},
        {"X-RateLimit-Reset": "nan"},
        {"X-RateLimit-Reset": "tomorrow"},
        {"X-RateLimit-Reset": f"{DATE_SECONDS - 60}"},
    ],
)
def test_a_wait_that_is_none_or_cannot_be_read_falls_back_to_our_own(headers: dict[str, str], waits: Waits) -> None:
    with saying(Said(429, {}, headers), Said(201, SUCCESS)) as url:
        assert braze(url, waits).send(changes("a")) == [DELIVERED]
    assert waits.count == 1
    assert 0 < waits.total_seconds <= 0.5


def test_a_wait_longer_than_the_budget_is_not_begun(waits: Waits) -> None:
    with saying(Said(429, {}, {"Retry-After": "121"})) as url, pytest.raises(UnavailableError, match="HTTP 429"):
        braze(url, waits).send(changes("a"))
    assert waits.count == 0


def test_a_server_without_a_clock_is_asked_again_all_the_same(waits: Waits) -> None:
    with saying(Said(429, {}, {"Retry-After": "7"}, date=None), Said(201, SUCCESS)) as url:
        assert braze(url, waits).send(changes("a")) == [DELIVERED]
    assert waits.total_seconds == 7


def test_the_limit_of_braze_itself_is_waited_out(crm: LocalCrm, waits: Waits) -> None:
    crm.app.config["ALLOWANCE"].requests = 1
    crm.app.config["ALLOWANCE"].seconds = 60
    destination = braze(crm.url, waits, budget_seconds=1)
    assert destination.send(changes("a")) == [DELIVERED]
    with pytest.raises(UnavailableError, match="HTTP 429"):  # asked to wait for a minute, with a budget of a second
        destination.send(changes("b"))
    assert crm.store.profiles() == {"a": {"score": 0.5}}


# The rate limit


@dataclass
class FakeClock:
    """Time passes only when somebody sleeps or a test says so."""

    now: float

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0, "a sleep of nothing would spin for ever"
        self.now += seconds


@settings(deadline=None)
@given(
    count=st.integers(1, 5),
    seconds=st.sampled_from([3.0, 0.7, 1.1, 60.0]) | st.floats(0.001, 100),
    start=st.sampled_from([0.0, 0.1, 12_345.678]) | st.floats(0, 1e7),
    pauses=st.lists(st.just(0.0) | st.floats(0, 5), min_size=1, max_size=30),
)
# .1 + .7 is less than .8: a limit that asks the same question with another sum spins here for ever.
@example(count=1, seconds=0.7, start=0.1, pauses=[0.0, 0.0])
def test_no_window_holds_more_requests_than_allowed(
    count: int, seconds: float, start: float, pauses: list[float]
) -> None:
    clock = FakeClock(start)
    limit = RateLimit(count, seconds, clock, clock.sleep)
    sent = []
    for pause in pauses:
        clock.now += pause
        before = clock.now
        limit.wait()
        sent.append(clock.now)
        # And no request waits for longer than a window, but for the last bit of a float.
        assert clock.now - before <= seconds + 2 * math.ulp(clock.now)
    assert all(later >= earlier + seconds for earlier, later in zip(sent, sent[count:], strict=False))


def test_requests_within_the_limit_do_not_wait() -> None:
    clock = FakeClock(100.0)
    limit = RateLimit(3, 3.0, clock, clock.sleep)
    for _ in range(3):
        limit.wait()
    assert clock.now == 100.0
    limit.wait()
    assert clock.now == 103.0


def test_every_attempt_counts_against_the_limit(waits: Waits) -> None:
    clock = FakeClock(0.0)
    limit = RateLimit(1, 10.0, clock, clock.sleep)
    with saying(Said(503, {}), Said(503, {}), Said(201, SUCCESS)) as url:
        Braze(url, KEY, limit=limit, budget=RetryBudget(sleep=waits.sleep)).send(changes("a"))
    assert clock.now == 20.0


# What must never be said

CANARY = "ada.lovelace+canary@example.org"


def quoting(text: str) -> Said:
    return Said(201, SUCCESS | {"errors": [{"type": text, "input_array": "attributes", "index": 0}]})


@pytest.mark.parametrize(
    ("said", "budget_seconds"),
    [
        (Said(503, {"message": f"{KEY} {CANARY}"}), 1e-9),
        (Said(429, {"message": CANARY}, {"Retry-After": "999"}), 1),
        (Said(400, {"message": f"{CANARY} is not valid for {KEY}"}), 1),
        (Said(401, {"message": f"{KEY} is not valid"}), 1),
        (Said(302, {}, {"Location": f"http://127.0.0.1:9/{CANARY}?{KEY}"}), 1),
        (Said(201, CANARY.encode()), 1e-9),
        (Said(201, [CANARY]), 1e-9),
        (Said(201, {"message": CANARY}), 1),
        (Said(201, b"", {"Content-Length": "1000"}), 1e-9),
        (quoting(f"The value {CANARY} is not valid"), 1),
        (quoting(f"'{CANARY}' is not valid"), 1),
        (quoting(f"invalid: {CANARY}"), 1),
        (quoting(f"({CANARY})"), 1),
        (quoting(KEY), 1),
    ],
)
def test_neither_the_key_nor_an_id_nor_the_address_is_said(
    said: Said, budget_seconds: float, waits: Waits, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with saying(said) as url:
        destination, addresses = braze(url, waits, budget_seconds), list[str]()
        try:
            told = repr(destination.send(changes(CANARY)))
        except WinbackError as error:
            told = "".join(traceback.format_exception(error))
            addresses = [address for address in (url, url.rpartition(":")[2]) if address in str(error)]
        assert addresses == []
    streams = capfd.readouterr()
    everything = f"{told} {destination!r} {caplog.text} {streams.out} {streams.err}".lower()
    for secret in (KEY, CANARY, "lovelace", "7f3a9c51"):
        assert secret.lower() not in everything


def test_a_crm_that_nobody_answers_for_is_unavailable_without_its_address(waits: Waits) -> None:
    with saying(Said()) as url:
        pass
    with pytest.raises(UnavailableError) as refusal:
        braze(url, waits, budget_seconds=1e-9).send(changes(CANARY))
    assert str(refusal.value) == "The CRM did not take the request within 1e-09 s: ConnectionError"
