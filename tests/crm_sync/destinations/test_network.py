"""Network settings: a private authority and a proxy, and the errors for wrong settings."""

from __future__ import annotations

import base64
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest

from core.errors import ContractError
from crm_sync.destination import DeadlineExceededError, UnavailableError
from crm_sync.destinations.http import transport as transport_module
from crm_sync.destinations.http.rate_limiter import RateLimiter
from crm_sync.destinations.http.transport import Network, RetryBudget, Transport
from tests.crm_sync.destinations.test_wire import DRIPS, FIRST, SECOND, dripping, wire
from tests.support.crm.local_api import FakeRunContext
from tests.support.crm.scripted_server import Connection, Script, Ticking, answers, hurried, serving
from tests.support.tls import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def ask(port: int, network: Network, run: Any = None, seconds: float = 120) -> Any:
    crm = Transport(f"https://127.0.0.1:{port}", {}, RateLimiter([]), budget=RetryBudget(seconds, network=network))
    return crm.request(run or FakeRunContext(), "POST", "/", body={}).body


# A private authority


def test_a_certificate_of_the_authority_that_is_named_is_trusted(authority: Authority) -> None:
    with serving(answers(wire(FIRST)), wrap=authority.serves()) as server:
        assert ask(server.port, Network(str(authority.file))) == FIRST


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_certificate_of_another_authority_is_told_at_once(
    authority: Authority, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, str(authority.file))  # only winback's own setting counts
    run = FakeRunContext()
    with serving(answers(wire(FIRST)), wrap=authority.serves()) as server, pytest.raises(ContractError) as refusal:
        ask(server.port, Network(), run)
    assert str(refusal.value) == (
        "The CRM's certificate is not trusted: its authority is not known to this machine. Correct WINBACK_CRM_URL, or name the "
        "file of the authorities to trust: WINBACK_CRM_CA_FILE"
    )
    assert (run.waits, refusal.value.exit_code) == ([], 2)


@pytest.mark.parametrize(
    ("host", "days_left", "why"),
    [
        ("10.0.0.7", 1, "it is for another host"),
        ("127.0.0.1", -1, "it has expired"),
        ("127.0.0.1", 40, "not valid yet"),
    ],
)
def test_a_certificate_that_does_not_fit_is_told_with_the_reason(
    authority: Authority, host: str, days_left: int, why: str
) -> None:
    wrapped = authority.serves(host, days_left=days_left)
    with serving(answers(wire(FIRST)), wrap=wrapped) as server, pytest.raises(ContractError, match=why):
        ask(server.port, Network(str(authority.file)))


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python asks for it from 3.13 on")
def test_an_authority_that_does_not_say_what_its_key_is_for_is_told_in_words(tmp_path: Path) -> None:
    authority = Authority(tmp_path, has_usage=False)
    with (
        serving(answers(wire(FIRST)), wrap=authority.serves()) as server,
        pytest.raises(ContractError, match="OpenSSL says: CA cert does not include key usage extension"),
    ):
        ask(server.port, Network(str(authority.file)))


def test_a_server_without_tls_is_told_at_once() -> None:
    def plain(connection: Connection) -> None:
        connection.socket.recv(1)
        connection.says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        _idle(connection)

    run = FakeRunContext()
    with serving(plain) as server, pytest.raises(ContractError) as refusal:
        ask(server.port, Network(), run)
    assert str(refusal.value) == "The server at WINBACK_CRM_URL does not use TLS. Correct its host and port."
    assert run.waits == []


def test_a_server_that_wants_our_certificate_is_told_at_once(authority: Authority) -> None:
    with (
        serving(answers(wire(FIRST)), wrap=authority.serves(wants_certificate=True)) as server,
        pytest.raises(ContractError, match="requires a client certificate"),
    ):
        ask(server.port, Network(str(authority.file)))


def test_a_server_that_speaks_tls_in_another_way_is_told_at_once(authority: Authority) -> None:
    with (
        serving(answers(wire(FIRST)), wrap=authority.serves(has_ciphers=False)) as server,
        pytest.raises(ContractError, match="have no TLS version or cipher in common"),
    ):
        ask(server.port, Network(str(authority.file)))


def test_a_handshake_that_breaks_off_may_pass(authority: Authority) -> None:
    """The first connection ends during the handshake."""
    serves, is_first = authority.serves(), iter([True])

    def wrap(raw: socket.socket) -> socket.socket:
        if next(is_first, False):
            raw.recv(1)
            raise OSError
        return serves(raw)

    run = FakeRunContext()
    with serving(answers(wire(FIRST)), wrap=wrap) as server:
        assert ask(server.port, Network(str(authority.file)), run) == FIRST
    assert len(run.waits) == 1


def test_a_handshake_that_never_ends_is_left(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "TIMEOUT_SECONDS", (0.1, 0.1))
    with serving(_idle) as server, pytest.raises(UnavailableError):
        ask(server.port, Network(str(authority.file)), seconds=1e-9)


def _idle(connection: Connection) -> None:
    while connection.socket.recv(65_536):
        pass


@pytest.mark.parametrize("content", DRIPS.values(), ids=DRIPS)
def test_a_reply_that_drips_through_tls_ends_soon_after_the_run_s_deadline(
    authority: Authority, content: bytes
) -> None:
    clock = Ticking(2.0)
    with (
        serving(dripping(content), wrap=authority.serves()) as server,
        pytest.raises(DeadlineExceededError) as left,
    ):
        ask(server.port, Network(str(authority.file)), hurried(60, clock))
    assert (left.value.code, clock.now <= 60 + 2 * 6) == ("deadline", True)


# A proxy


def tunnel(to_port: int, asked: list[bytes]) -> Script:
    """A proxy that connects every client to this port and records the requests."""

    def script(connection: Connection) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.socket.recv(1)
        asked.append(head)
        with socket.create_connection(("127.0.0.1", to_port)) as onward:
            connection.says(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pass_on, args=(onward, connection.socket), daemon=True)
            back.start()
            _pass_on(connection.socket, onward)

    return script


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    while part := source.recv(65_536):
        target.sendall(part)


def test_https_goes_by_the_proxy_with_its_user_and_reuses_the_connection(authority: Authority) -> None:
    asked: list[bytes] = []
    with (
        serving(answers(wire(FIRST), wire(SECOND)), wrap=authority.serves()) as server,
        serving(tunnel(server.port, asked)) as proxy,
    ):
        network = Network(str(authority.file), f"http://user:word@127.0.0.1:{proxy.port}")
        crm = Transport("https://127.0.0.1:9", {}, RateLimiter([]), budget=RetryBudget(network=network))
        replies = [crm.request(FakeRunContext(), "POST", "/", body={}).body for _ in range(2)]
    assert (replies, len(asked)) == ([FIRST, SECOND], 1)
    assert asked[0].startswith(b"CONNECT 127.0.0.1:9 HTTP/1.")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"user:word") in asked[0]


@pytest.mark.parametrize(
    ("user", "sent"),
    [
        ("us%40er:wo%3Ard", b"us@er:wo:rd"),
        ("user:100%25", b"user:100%"),
        ("user:w\u20acrd", "user:w\u20acrd".encode()),
        ("user:w%E2%82%ACrd", "user:w\u20acrd".encode()),
        ("user", b"user:"),
        (":word", b":word"),
    ],
)
def test_the_proxy_s_user_and_password_may_be_any_text(authority: Authority, user: str, sent: bytes) -> None:
    asked: list[bytes] = []
    with (
        serving(answers(wire(FIRST)), wrap=authority.serves()) as server,
        serving(tunnel(server.port, asked)) as proxy,
    ):
        assert ask(9, Network(str(authority.file), f"http://{user}@127.0.0.1:{proxy.port}")) == FIRST
    assert b"Proxy-Authorization: Basic " + base64.b64encode(sent) + b"\r\n" in asked[0]


def test_http_to_this_machine_goes_by_no_proxy() -> None:
    with serving(answers(wire(FIRST))) as server:
        network = Network(proxy="http://127.0.0.1:9")
        crm = Transport(server.url, {}, RateLimiter([]), budget=RetryBudget(network=network))
        assert crm.request(FakeRunContext(), "POST", "/", body={}).body == FIRST


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_not_used(
    authority: Authority, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(answers(wire(FIRST)), wrap=authority.serves()) as server:
        assert ask(server.port, Network(str(authority.file))) == FIRST


@pytest.mark.parametrize(
    "status",
    [
        b"407 Proxy Authentication Required",
        b"403 Forbidden",
        b"405 Method Not Allowed",
        b"302 Found",
        b"401 Unauthorized",
    ],
)
def test_a_proxy_that_refuses_is_told_at_once_without_its_password(status: bytes) -> None:
    def refuses(connection: Connection) -> None:
        connection.socket.recv(65_536)
        connection.says(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

    run = FakeRunContext()
    with serving(refuses) as proxy, pytest.raises(ContractError) as refusal:
        ask(9, Network(proxy=f"http://user:canary@127.0.0.1:{proxy.port}"), run)
    assert str(refusal.value) == (
        f"The proxy answered HTTP {status[:3].decode()} and does not connect to the CRM. Check WINBACK_CRM_PROXY, its user "
        "and password, and which hosts the proxy allows."
    )
    assert run.waits == []


@pytest.mark.parametrize("status", [b"408 Request Timeout", b"429 Too Many Requests", b"502 Bad Gateway", b"503 Busy"])
def test_a_proxy_that_is_busy_may_take_it_later(authority: Authority, status: bytes) -> None:
    def busy(connection: Connection) -> None:
        connection.socket.recv(65_536)
        connection.says(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

    run, asked = FakeRunContext(), list[bytes]()
    with (
        serving(answers(wire(FIRST)), wrap=authority.serves()) as server,
        serving(busy, tunnel(server.port, asked)) as proxy,
    ):
        network = Network(str(authority.file), f"http://127.0.0.1:{proxy.port}")
        assert ask(9, network, run) == FIRST
    assert len(run.waits) == 1


@pytest.mark.parametrize("content", [DRIPS["the status"], DRIPS["a header"]])
def test_a_proxy_that_drips_ends_soon_after_the_run_s_deadline(content: bytes) -> None:
    def drips(connection: Connection) -> None:
        connection.socket.recv(65_536)
        connection.drips(content)

    clock = Ticking(2.0)
    with serving(drips) as proxy, pytest.raises(DeadlineExceededError):
        ask(9, Network(proxy=f"http://127.0.0.1:{proxy.port}"), hurried(60, clock))
    assert clock.now <= 60 + 2 * 6


def test_a_handshake_behind_a_proxy_may_last_no_longer_than_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "TIMEOUT_SECONDS", (0.1, 3_600.0))

    def falls_silent(connection: Connection) -> None:
        connection.socket.recv(65_536)
        connection.says(b"HTTP/1.1 200 Connection established\r\n\r\n")
        _idle(connection)

    with serving(falls_silent) as proxy, pytest.raises(UnavailableError):
        ask(9, Network(proxy=f"http://127.0.0.1:{proxy.port}"), seconds=1e-9)


def test_what_a_proxy_echoes_is_not_told() -> None:
    def echoes(connection: Connection) -> None:
        head = b" ".join(connection.socket.recv(65_536).split(b"\r\n"))
        connection.says(b"HTTP/1.1 403 " + head + b"\r\nX-Echo: " + head + b"\r\n\r\n" + head)

    word = b"canary".hex()  # the error quotes lines of this test
    with serving(echoes) as proxy, pytest.raises(ContractError) as refusal:
        ask(9, Network(proxy=f"http://user:{word}@127.0.0.1:{proxy.port}"))
    told = "".join(traceback.format_exception(refusal.value))
    assert word not in told
    assert base64.b64encode(f"user:{word}".encode()).decode() not in told


def test_a_proxy_that_is_down_may_come_back() -> None:
    with pytest.raises(UnavailableError):
        ask(9, Network(proxy="http://127.0.0.1:9"), seconds=1e-9)


def test_what_is_shown_of_the_way_holds_no_password() -> None:
    assert "word" not in repr(RetryBudget(network=Network(proxy="http://user:word@proxy:1")))
