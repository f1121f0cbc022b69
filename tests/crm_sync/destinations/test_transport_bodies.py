"""Bodies of replies: none causes a wrong outcome, an endless wait or exhausted memory."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from crm_sync.destination import DeadlineExceededError, UnavailableError
from crm_sync.destinations.http import transport as transport_module
from crm_sync.destinations.http.rate_limiter import RateLimiter
from crm_sync.destinations.http.transport import Reply, RetryBudget, Transport
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.gzipped import gzipped

DONE = {"done": True}
WIRE = json.dumps(DONE).encode()


def ask(url: str, run: FakeRunContext | None = None, budget_seconds: float = 120.0, **more: Any) -> Reply:
    transport = Transport(url, {}, RateLimiter([]), budget=RetryBudget(budget_seconds))
    return transport.request(run or FakeRunContext(), "POST", "/", body={}, **more)


@contextmanager
def raw(*replies: bytes, resets: bool = False) -> Iterator[str]:
    """A server that writes these bytes, one reply per connection, and then closes it normally or with a reset."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for reply in replies:
            connection, _ = listener.accept()
            with connection:
                # Read the whole request, because closing with unread bytes would reset the connection.
                asked = b""
                while not asked.endswith(b"{}") and (part := connection.recv(65_536)):
                    asked += part
                connection.sendall(reply)
                if resets:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        thread.join()
        listener.close()


HEAD = b"HTTP/1.1 200 OK\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(WIRE) + WIRE


# A body that is cut off


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"HTTP/1.1 2",
        HEAD + b"Content-Length: 99\r\n\r\n" + WIRE,
        HEAD + b"Content-Length: 99\r\n\r\n",
        HEAD + b"Content-Length: 2, 1000\r\n\r\n" + WIRE,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n63\r\n" + WIRE,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(WIRE) + WIRE + b"\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n" + WIRE,
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(WIRE) + WIRE,
        b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"a" * 70_000 + b"\r\n\r\n" + WIRE,
        b"HTTP/1.1 200 OK\r\n" + b"X-Many: a\r\n" * 200 + b"\r\n" + WIRE,
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
def test_a_reply_that_breaks_off_or_contradicts_itself_is_tried_again(broken: bytes, resets: bool) -> None:
    """A text too, because it has no end marker: half a file of results could pass as complete."""
    for expects in ("json", "text"):
        run = FakeRunContext()
        with raw(broken, WHOLE, resets=resets) as url:
            assert ask(url, run, expects=expects).text == WIRE.decode()
        assert run.waits


@pytest.mark.parametrize(
    "reply",
    [
        WHOLE,
        HEAD + b"Connection: close\r\n\r\n" + WIRE,
        HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n4\r\n"
        + WIRE[:4]
        + b"\r\n%x\r\n" % len(WIRE[4:])
        + WIRE[4:]
        + b"\r\n0\r\n\r\n",
        HEAD + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzipped(WIRE),
        b"HTTP/1.0 200 OK\r\n\r\n" + WIRE,
        b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,
    ],
)
def test_a_whole_reply_is_read_however_it_comes(reply: bytes) -> None:
    with raw(reply) as url:
        assert ask(url).body == DONE


# A body that is not an answer


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"<html>Maintenance</html>",
        b"\xff\xfe\x00",
        b"null",
        b"[" * 100_000,
        b'{"message": ' + b"1" * 5_000 + b"}",
        b'{"a": 1} {"a": 2}',
    ],
)
def test_a_success_that_is_no_json_is_tried_again(content: bytes) -> None:
    run = FakeRunContext()
    with scripted_server(Canned(201, content), Canned(201, DONE)) as script:
        assert ask(script.url, run).body == DONE
    assert len(run.waits) == 1


def test_a_success_that_never_is_json_ends_as_unavailable() -> None:
    with (
        scripted_server(Canned(201, b"garbage")) as script,
        pytest.raises(UnavailableError, match="HTTP 201 without JSON"),
    ):
        ask(script.url)


@pytest.mark.parametrize("content", [b'"success"', b"[]", b"0", b"false", b'{"a": 1e999}'])
def test_json_of_whatever_shape_is_for_the_destination_to_judge(content: bytes) -> None:
    with scripted_server(Canned(200, content)) as script:
        assert ask(script.url).body == json.loads(content)


# A body without end


def test_an_endless_body_ends_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(transport_module.MAX_REPLY_BYTES, "json", 1 << 20)
    with (
        scripted_server(Canned(200, b" " * (1 << 20) + WIRE)) as script,
        pytest.raises(UnavailableError, match="more than 1 MiB"),
    ):
        ask(script.url, budget_seconds=1e-9)
    with scripted_server(Canned(200, b" " * ((1 << 20) - len(WIRE)) + WIRE)) as script:
        assert ask(script.url).body == DONE


def test_a_body_that_is_small_until_it_is_unpacked_ends_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(transport_module.MAX_REPLY_BYTES, "json", 1 << 20)
    bomb = Canned(200, gzipped(b" " * (20 << 20) + WIRE), {"Content-Encoding": "gzip"})
    with scripted_server(bomb) as script, pytest.raises(UnavailableError, match="more than 1 MiB"):
        ask(script.url, budget_seconds=1e-9)


@dataclass
class Hurried(FakeRunContext):
    """A run whose clock advances by `step` seconds at each reading."""

    step: float = 0.0
    looks: int = 0

    def clock(self) -> float:
        self.looks += 1
        return self.looks * self.step

    def check(self) -> None:
        if self.looks * self.step >= self.seconds_left:
            raise DeadlineExceededError("late", "deadline")


def test_a_body_that_drips_ends_with_its_time() -> None:
    large = Canned(200, b" " * (8 << 20) + WIRE)
    with scripted_server(large) as script, pytest.raises(UnavailableError, match="took longer than 120 s"):
        ask(script.url, Hurried(step=50), budget_seconds=1e-9)


def test_a_body_that_drips_ends_with_the_run() -> None:
    large = Canned(200, b" " * (8 << 20) + WIRE)
    with scripted_server(large) as script, pytest.raises(DeadlineExceededError):
        ask(script.url, Hurried(step=1, seconds_left=20))
