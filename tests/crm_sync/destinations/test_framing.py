"""Framing: a reply without a clear end, or an incomplete one, is never accepted. Sends bytes over real sockets."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from crm_sync.destination import BatchRefusedError, RequestRefusedError, UnavailableError
from crm_sync.destinations.http.rate_limiter import RateLimiter
from crm_sync.destinations.http.transport import MAX_REPLY_BYTES, Network, RetryBudget, Transport
from tests.crm_sync.destinations.test_wire import FIRST, HEAD, SECOND, ask, transport, wire
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.crm.scripted_server import Connection, Script, answers, serving
from tests.support.gzipped import gzipped
from tests.support.tls import Authority

ONE = b'{"reply": 1}'
LENGTH = b"Content-Length: %d\r\n" % len(ONE)
CHUNKED = b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(ONE), ONE)


def says_and_leaves(content: bytes) -> Script:
    def script(connection: Connection) -> None:
        connection.asked()
        connection.says(content)

    return script


# Headers

UNCLEAR = {
    "cut off in a header": HEAD + b"Content-Len",
    "cut off after a header": HEAD + b"Retry-After: 6",
    "cut off before the blank line": HEAD,
    "lines that end in CR alone": b"HTTP/1.1 200 OK\r" + LENGTH[:-2] + b"\r\r" + ONE,
    "a line that is not a header": HEAD + b"garbage\r\n" + LENGTH + b"\r\n" + ONE,
    "a name of other letters": HEAD + "X-\u00c4: a\r\n".encode() + LENGTH + b"\r\n" + ONE,
    "a blank before the colon": HEAD + b"Transfer-Encoding : chunked\r\n" + CHUNKED,
    "a length below zero": HEAD + b"Content-Length: -1\r\n\r\n" + ONE,
    "a length with a sign": HEAD + b"Content-Length: +12\r\n\r\n" + ONE,
    "a length in Python's way": HEAD + b"Content-Length: 1_2\r\n\r\n" + ONE,
    "a length without end": HEAD + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n" + ONE,
    "an empty length": HEAD + b"Content-Length:\r\n\r\n" + ONE,
    "a length that is a word": HEAD + b"Content-Length: long\r\n\r\n" + ONE,
    "two lengths": HEAD + LENGTH + b"Content-Length: 1\r\n\r\n" + ONE,
    "a list of two lengths": HEAD + b"Content-Length: 12, 1\r\n\r\n" + ONE,
    "a coding that we did not allow": HEAD + b"Transfer-Encoding: gzip, chunked\r\n" + CHUNKED,
    "chunks in chunks": HEAD + b"Transfer-Encoding: chunked\r\n" * 2 + CHUNKED,
    "an unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n" + LENGTH + b"\r\n" + ONE,
}


@pytest.mark.parametrize("content", UNCLEAR.values(), ids=UNCLEAR)
def test_a_head_that_does_not_say_where_the_body_ends_is_a_passing_fault(content: bytes) -> None:
    run = FakeRunContext()
    with serving(says_and_leaves(content), answers(wire(SECOND))) as server:
        assert ask(transport(server, budget_seconds=120), run) == SECOND
    assert len(run.waits) == 1


CLEAR = {
    "the length twice": HEAD + LENGTH * 2 + b"\r\n" + ONE,
    "the length in a list": HEAD + LENGTH[:-2] + b", 12\r\n\r\n" + ONE,
    "lines that end in LF alone": (HEAD + LENGTH + b"\r\n").replace(b"\r", b"") + ONE,
    "no reason phrase": b"HTTP/1.1 200\r\n" + LENGTH + b"\r\n" + ONE,
    "a folded header": HEAD + b"X-A: a\r\n b\r\n" + LENGTH + b"\r\n" + ONE,
    "chunk extensions and trailers": HEAD
    + b"Transfer-Encoding: Chunked\r\n\r\nc;a=b\r\n"
    + ONE
    + b"\r\n0\r\nContent-Length: 7\r\n\r\n",
    "a type that has parts": HEAD + b"Content-Type: multipart/mixed; boundary=a\r\n" + LENGTH + b"\r\n" + ONE,
}


@pytest.mark.parametrize("content", CLEAR.values(), ids=CLEAR)
def test_an_odd_head_that_is_clear_is_an_answer(content: bytes) -> None:
    with serving(answers(content)) as server:
        assert ask(transport(server)) == FIRST


@pytest.mark.parametrize(
    "head", [b"Transfer-Encoding: chunked\r\n" + LENGTH + CHUNKED, b"Transfer-Encoding: identity\r\n" + LENGTH]
)
def test_a_connection_whose_reply_names_its_end_in_two_ways_is_not_used_again(head: bytes) -> None:
    """By one header the reply is over; by the other the next bytes belong to it."""
    content = HEAD + head + (b"" if head.endswith(CHUNKED) else b"\r\n" + ONE)
    with serving(answers(content, wire({"reply": "stale"})), answers(wire(SECOND))) as server:
        crm = transport(server)
        assert [ask(crm), ask(crm)] == [FIRST, SECOND]


# Body


def packed(text: bytes, length: int | None = None) -> bytes:
    content = gzipped(text)[:length]
    return HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)


LARGE = b" " * (MAX_REPLY_BYTES["json"] + 1)
BROKEN = {
    "less than it said": HEAD + b"Content-Length: 13\r\n\r\n" + ONE,
    "no last chunk": HEAD + b"Transfer-Encoding: chunked\r\n" + CHUNKED[:-5],
    "a chunk below zero": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + ONE,
    "a chunk of a word": HEAD + b"Transfer-Encoding: chunked\r\n\r\nlong\r\n" + ONE,
    "a packed one cut off": packed(ONE, 22),
    "a packed one that ended with the connection": HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzipped(ONE)[:-9],
    "one packed otherwise": HEAD + b"Content-Encoding: br\r\n" + LENGTH + b"\r\n" + ONE,
    "a large one": HEAD + b"\r\n" + LARGE,
    "a large one packed": packed(LARGE),
    "no number": wire(float("nan")),
    "no finite number": wire({"processed": float("inf")}),
    "a nested one": HEAD + b"\r\n" + b'{"a":' * 100_000,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_body_that_is_not_whole_or_too_large_or_no_json_is_a_passing_fault(content: bytes) -> None:
    run = FakeRunContext()
    with serving(says_and_leaves(content), answers(wire(SECOND))) as server:
        assert ask(transport(server, budget_seconds=120), run) == SECOND
    assert run.waits


@pytest.mark.parametrize(
    ("head", "text", "is_taken"),
    [
        (b"", b"id,ok\r\nuser-1", False),
        (b"", b"id,ok\r\nuser-12,true\r\n", True),
        (b"", b"", True),
        (b"Content-Length: 20\r\n", b"id,ok\r\nuser-12,true", False),
        (b"Content-Length: 19\r\n", b"id,ok\r\nuser-12,true", True),
    ],
)
def test_a_text_that_may_have_been_cut_off_within_a_row_is_not_taken(head: bytes, text: bytes, is_taken: bool) -> None:
    """An id without its rest may be another user's id."""
    whole = b"id,ok\r\nuser-12,false\r\n"
    with serving(
        says_and_leaves(HEAD + head + b"\r\n" + text),
        says_and_leaves(HEAD + b"Content-Length: %d\r\n\r\n" % len(whole) + whole),
    ) as server:
        reply = Transport(server.url, {}, RateLimiter([])).request(
            FakeRunContext(), "GET", "/?{}", expects="text", data=b"{}"
        )
    assert reply.text.encode() == (text if is_taken else whole)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("body", [b"Content-Length: 99\r\n\r\n{", b"Content-Encoding: gzip\r\n\r\n{"])
def test_a_broken_body_does_not_hide_the_wait_that_was_asked_for(status: int, body: bytes) -> None:
    refusal = b"HTTP/1.1 %d No\r\nRetry-After: 42\r\n" % status
    run = FakeRunContext()
    with serving(says_and_leaves(refusal + body), answers(wire(SECOND))) as server:
        assert ask(transport(server, budget_seconds=120), run) == SECOND
    assert run.waits == [42]


# A reply before the end of the request


def refuses_early(connection: Connection) -> None:
    connection.socket.recv(10)
    connection.says(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\n{}")


@pytest.mark.parametrize("has_tls", [False, True])
def test_a_refusal_before_the_request_was_sent_whole_counts(has_tls: bool, tmp_path: Path) -> None:
    """A server with a size limit stops reading; the batch is halved, not sent again."""
    authority = Authority(tmp_path)
    wrap = authority.serves() if has_tls else lambda raw: raw
    with serving(refuses_early, answers(wire(SECOND)), wrap=wrap) as server:
        url = f"https://127.0.0.1:{server.port}" if has_tls else server.url
        budget = RetryBudget(network=Network(str(authority.file)))
        crm = Transport(url, {}, RateLimiter([]), budget=budget)
        with pytest.raises(BatchRefusedError) as refusal:
            ask(crm, content=b" " * (8 << 20))
        assert ask(crm) == SECOND
    assert (refusal.value.http_status, len(server.connections)) == (413, 2)


def test_a_server_that_leaves_without_a_word_while_we_send_is_unavailable() -> None:
    def leaves(connection: Connection) -> None:
        connection.socket.recv(10)
        connection.socket.shutdown(socket.SHUT_RDWR)

    with serving(leaves) as server, pytest.raises(UnavailableError):
        ask(transport(server), content=b" " * (8 << 20))


# Redirects

PLACES = [
    *("/", "//evil.example", "?a", "#a", "", "http://[::1", "http://[", "http://a:b:c", "http://127.0.0.1:99999"),
    *("http://\xff\xfe", "http://x%00y", "http:///", "http://*x", "ftp://x", "javascript:alert(1)", "data:x", "\\\\x"),
    *("https://user:word@evil.example/", "http://evil. example"),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_where_a_redirect_leads_is_not_even_read(place: str, status: int) -> None:
    content = b"HTTP/1.1 %d Moved\r\nLocation: %b\r\nContent-Length: 2\r\n\r\n{}" % (status, place.encode("latin-1"))
    with serving(answers(content)) as server, pytest.raises(RequestRefusedError) as refusal:
        ask(transport(server))
    assert (refusal.value.http_status, refusal.value.exit_code) == (status, 2)
    assert len(server.connections) == 1


def test_the_body_of_a_redirect_is_bounded_like_every_other() -> None:
    bomb = gzipped(bytes(20 << 20))
    content = b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    with (
        serving(answers(content + bomb)) as server,
        pytest.raises(UnavailableError, match="a reply of more than 16 MiB"),
    ):
        ask(transport(server))


def test_no_cookie_is_kept() -> None:
    """Nothing of one account's reply is sent with another account's request."""
    with scripted_server(Canned(200, json.loads(ONE), {"Set-Cookie": "session=1; Path=/"})) as script:
        crm = Transport(script.url, {}, RateLimiter([]))
        replies: list[Any] = [ask(crm), ask(crm)]
    assert replies == [FIRST, FIRST]
    assert "cookie" not in script.asked[1].headers
