"""Connections: every request gets its own reply, and none exceeds its time limit. Sends bytes over real sockets."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from crm_sync.destination import DeadlineExceededError, UnavailableError
from crm_sync.destinations.http import connection as wire_module
from crm_sync.destinations.http import transport as transport_module
from crm_sync.destinations.http.rate_limiter import RateLimiter
from crm_sync.destinations.http.transport import RetryBudget, Transport
from tests.support.crm.local_api import FakeRunContext
from tests.support.crm.scripted_server import Connection, Script, Server, Ticking, answers, hurried, ok, serving

ONCE = 1e-9  # a retry budget for one attempt
FIRST, SECOND = {"reply": 1}, {"reply": 2}


def wire(value: Any) -> bytes:
    return ok(json.dumps(value).encode())


def transport(server: Server, budget_seconds: float = ONCE) -> Transport:
    return Transport(server.url, {}, RateLimiter([]), budget=RetryBudget(budget_seconds))


def ask(crm: Transport, run: Any = None, content: bytes = b"{}") -> Any:
    return crm.request(run or FakeRunContext(), "POST", "/", data=content).body


# Each request gets its own reply


INTERIM = {
    "processing": b"HTTP/1.1 102 Processing\r\n\r\n",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nContent-Length: 9\r\n\r\n",
    "an unknown one": b"HTTP/1.1 199 Whatever\r\n\r\n",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n",
    "several": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" * 3
    + b"HTTP/1.1 103 Early Hints\r\n\r\n",
}


@pytest.mark.parametrize("interim", INTERIM.values(), ids=INTERIM)
@pytest.mark.parametrize("is_apart", [False, True])
def test_an_interim_reply_is_no_answer_and_its_connection_is_not_used_again(interim: bytes, is_apart: bool) -> None:
    """If it were accepted as the reply, the real reply would go to the next batch."""

    def first(connection: Connection) -> None:
        connection.asked()
        connection.says(*([interim, wire(FIRST)] if is_apart else [interim + wire(FIRST)]))
        connection.asked()

    with serving(first, answers(wire(SECOND))) as server:
        crm = transport(server)
        assert [ask(crm), ask(crm)] == [FIRST, SECOND]
    assert len(server.connections) == 2


SURPLUS = {
    "a body of a reply that has none": (b"HTTP/1.1 204 No Content\r\n\r\n" + wire({"reply": "stale"}), None),
    "the reply a second time": (wire(FIRST) * 2, FIRST),
    "more than it said": (wire(FIRST) + b"}", FIRST),
    "a reply after the last chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + wire({"reply": "stale"}),
        {},
    ),
}


@pytest.mark.parametrize(("surplus", "first"), SURPLUS.values(), ids=SURPLUS)
def test_a_connection_that_carried_more_than_the_reply_is_not_used_again(surplus: bytes, first: Any) -> None:
    with serving(answers(surplus), answers(wire(SECOND))) as server:
        crm = transport(server)
        assert [ask(crm), ask(crm)] == [first, SECOND]
    assert len(server.connections) == 2


def test_a_connection_that_carried_one_reply_for_each_request_is_used_again() -> None:
    replies = [wire(FIRST), b"HTTP/1.1 204 No Content\r\n\r\n", wire(SECOND)]
    with serving(answers(*replies)) as server:
        crm = transport(server)
        assert [ask(crm), ask(crm), ask(crm)] == [FIRST, None, SECOND]
    assert len(server.connections) == 1


def test_a_reply_that_came_unasked_on_an_idle_connection_answers_nothing() -> None:
    is_idle, has_spoken = threading.Event(), threading.Event()

    def speaks_up(connection: Connection) -> None:
        connection.asked()
        connection.says(wire(FIRST))
        is_idle.wait()
        connection.says(wire({"reply": "stale"}))
        has_spoken.set()
        connection.asked()

    with serving(speaks_up, answers(wire(SECOND))) as server:
        crm = transport(server)
        assert ask(crm) == FIRST
        is_idle.set()
        has_spoken.wait()
        assert ask(crm) == SECOND


@pytest.mark.parametrize("interim", [INTERIM["continue"], INTERIM["processing"], INTERIM["early hints"]])
def test_interim_replies_without_end_are_a_passing_fault(interim: bytes) -> None:
    def endless(connection: Connection) -> None:
        connection.asked()
        while True:
            connection.says(interim * 100)

    with serving(endless, answers(wire(SECOND))) as server:
        crm = transport(server, budget_seconds=120)
        run = FakeRunContext()
        assert ask(crm, run) == SECOND
    assert len(run.waits) == 1


def test_a_change_of_protocol_is_a_passing_fault_on_a_connection_that_is_left() -> None:
    switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"
    with serving(answers(switched, wire(FIRST)), answers(wire(SECOND))) as server:
        crm = transport(server, budget_seconds=120)
        assert ask(crm) == SECOND
    assert len(server.connections) == 2


# Time limits of an exchange


HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "the status": b"HTTP/1.1 200 O" + b"K",
    "a header": HEAD + b"X-Slow: a",
    "an interim reply's header": b"HTTP/1.1 103 Early Hints\r\nX-Slow: a",
    "a body": HEAD + b"Content-Length: 1000000\r\n\r\n ",
    "a body without a length": HEAD + b"\r\n ",
    "a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n ",
    "a packed body": HEAD + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08\0\0\0\0\0\0a",
}


def dripping(content: bytes) -> Script:
    def script(connection: Connection) -> None:
        connection.asked()
        connection.drips(content)

    return script


@pytest.mark.parametrize("content", DRIPS.values(), ids=DRIPS)
def test_a_reply_that_drips_ends_soon_after_the_run_s_deadline(content: bytes) -> None:
    """The clock advances two seconds per check. A limit between two bytes alone would never end it."""
    clock = Ticking(2.0)
    with serving(dripping(content)) as server, pytest.raises(DeadlineExceededError) as left:
        ask(transport(server, 120), hurried(60, clock))
    assert left.value.code == "deadline"
    assert 60 <= clock.now <= 60 + 2 * 6  # the deadline, then a grace period of 2 s, with 2 s per check


@pytest.mark.parametrize("content", DRIPS.values(), ids=DRIPS)
def test_a_reply_that_drips_ends_with_its_own_time_where_the_run_has_more(content: bytes) -> None:
    clock = Ticking(2.0)
    with serving(dripping(content)) as server, pytest.raises(UnavailableError, match="took longer than 120 s") as left:
        ask(transport(server), hurried(10_000, clock))
    assert (left.value.code, clock.now < 160) == ("unavailable", True)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", HEAD + b"Content-Length: 9\r\n\r\n{"])
def test_a_run_told_to_stop_leaves_a_server_that_says_nothing_more(sent: bytes) -> None:
    run = hurried(10_000, Ticking(1.0))

    def falls_silent(connection: Connection) -> None:
        connection.asked()
        connection.says(sent)
        run.stop("SIGTERM")
        connection.asked()

    with serving(falls_silent) as server, pytest.raises(DeadlineExceededError) as left:
        ask(transport(server), run)
    assert left.value.code == "stopped"


def test_a_reply_that_comes_within_the_grace_counts() -> None:
    """As after SIGTERM: the CRM's outcome is known, and no user is in doubt."""
    run = hurried(10_000, Ticking(0.01))

    def answers_late(connection: Connection) -> None:
        connection.asked()
        run.stop("SIGTERM")
        connection.says(wire(FIRST))

    with serving(answers_late) as server:
        assert ask(transport(server), run) == FIRST


def test_a_server_that_reads_nothing_is_left_soon_after_the_run_s_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "LOOK_SECONDS", 0.001)
    left, clock = threading.Event(), Ticking(2.0)

    def deaf(connection: Connection) -> None:
        connection.socket.recv(1)
        left.wait()

    with serving(deaf) as server, pytest.raises(DeadlineExceededError) as error:
        ask(transport(server, 120), hurried(60, clock), content=b" " * (64 << 20))
    left.set()
    assert (error.value.code, clock.now <= 60 + 2 * 6) == ("deadline", True)


def test_a_server_that_reads_nothing_ends_the_request_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "TIMEOUT_SECONDS", (5.0, 0.1))

    left = threading.Event()

    def deaf(connection: Connection) -> None:
        connection.socket.recv(1)
        left.wait()

    with serving(deaf) as server, pytest.raises(UnavailableError):
        ask(transport(server), content=b" " * (64 << 20))
    left.set()
