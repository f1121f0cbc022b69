"""Errors for an unreachable CRM: host and port, what happened, and what to do. Uses real sockets."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import urllib3

from crm_sync.destination import DeadlineExceededError, UnavailableError
from crm_sync.destinations import connecting
from crm_sync.destinations.http import transport as transport_module
from crm_sync.destinations.http.rate_limiter import RateLimiter
from crm_sync.destinations.http.transport import Network, RetryBudget, Transport
from crm_sync.destinations.unreachable import fault_of
from tests.support.crm.local_api import FakeRunContext
from tests.support.crm.scripted_server import Connection, Ticking, answers, hurried, ok, serving

ONCE = 1e-9
PATH = "/users/track?canary=of-a-query"
START = "Correct WINBACK_CRM_URL, or start the local CRM (winback local-crm)."
LOOK = "Correct WINBACK_CRM_URL, or check the network of this machine and the CRM's status page."


def ask(url: str, run: Any = None, seconds: float = ONCE, network: Network | None = None) -> Any:
    crm = Transport(
        url, {"X-Key": "canary"}, RateLimiter([]), budget=RetryBudget(seconds, network=network or Network())
    )
    return crm.request(run or FakeRunContext(), "POST", PATH, body={}).body


def said(url: str, **more: Any) -> str:
    with pytest.raises(UnavailableError) as left:
        ask(url, **more)
    assert "canary" not in str(left.value)
    return str(left.value)


@pytest.fixture
def free() -> int:
    """A port of this machine without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.7"])
def test_a_crm_of_this_machine_that_is_not_running_is_told_at_once(host: str, free: int) -> None:
    run = FakeRunContext()
    text = said(f"http://{host}:{free}/base", run=run, seconds=120)
    assert text == (f"The CRM did not take the request: nothing listens at {host}:{free} (connection refused). {START}")
    assert run.waits == []


def test_a_proxy_of_this_machine_that_is_not_running_may_start_within_the_budget(free: int) -> None:
    run = FakeRunContext()
    proxy = Network(proxy=f"http://user:canary@127.0.0.1:{free}")
    text = said("https://rest.crm.test", run=run, seconds=120, network=proxy)
    assert text == (
        f"The CRM did not take the request within 120 s: nothing listens at the proxy at 127.0.0.1:{free} (connection refused). "
        "Correct WINBACK_CRM_PROXY, or check the proxy."
    )
    assert run.waits


def test_a_name_that_is_not_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "canary")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert said("https://rest.crm.test") == (
        f"The CRM did not take the request within 1e-09 s: the name of rest.crm.test:443 could not be resolved. {LOOK}"
    )
    proxy = Network(proxy="http://user:canary@proxy.test:3128")
    assert "the name of the proxy at proxy.test:3128 could not be resolved" in said(
        "https://rest.crm.test", network=proxy
    )


def reset(connection: Connection) -> None:
    connection.asked()
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def closes(connection: Connection) -> None:
    connection.asked()


def garbage(connection: Connection) -> None:
    connection.asked()
    connection.says(b"canary of a line\r\n\r\n")


def cut(connection: Connection) -> None:
    connection.asked()
    connection.says(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{")


def silent(connection: Connection) -> None:
    connection.asked()
    connection.socket.recv(1)


def stops(connection: Connection) -> None:
    connection.asked()
    connection.says(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{")
    connection.socket.recv(1)


@pytest.mark.parametrize(
    ("script", "what"),
    [
        (reset, "{} closed the connection before it had replied (connection reset)"),
        (closes, "{} closed the connection before it had replied (connection reset)"),
        (garbage, "the reply of {} was cut off or is not HTTP"),
        (cut, "the reply of {} was cut off or is not HTTP"),
        (silent, "{} did not send a complete reply in time (timed out)"),
        (stops, "{} did not send a complete reply in time (timed out)"),
    ],
)
def test_a_server_that_breaks_off_is_told(
    script: Callable[[Connection], None], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "TIMEOUT_SECONDS", (5.0, 0.05))
    with serving(script) as server:
        place = f"127.0.0.1:{server.port}"
        assert said(server.url) == (f"The CRM did not take the request within 1e-09 s: {what.format(place)}. {START}")


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (OSError(errno.ENETUNREACH, "canary"), "no route to crm.test:443 (network unreachable)"),
        (OSError(errno.EHOSTUNREACH, "canary"), "no route to crm.test:443 (network unreachable)"),
        (
            PermissionError(errno.EPERM, "canary"),
            "this machine does not allow a connection to crm.test:443 (permission denied)",
        ),
        (urllib3.exceptions.SSLError("canary"), "the reply of crm.test:443 was cut off or is not HTTP"),
        (OSError(errno.EMFILE, "canary"), "the connection to crm.test:443 failed"),
        (BrokenPipeError("canary"), "crm.test:443 closed the connection before it had replied (connection reset)"),
    ],
)
def test_what_tests_cannot_bring_about_is_told_as_well(error: Exception, what: str) -> None:
    fault = fault_of(error, "https://crm.test/canary?canary")
    assert (str(fault), fault.is_lasting) == (what, False)


# Connecting


@pytest.fixture
def silent_addresses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    """Give every name this many addresses that drop packets, and then one with a server."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # more than its queue holds, so that the system ignores further connections
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())

        def give(silent: int, port: int) -> None:
            ports = [*[full.getsockname()[1]] * silent, *([port] if port else [])]
            found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", each)) for each in ports]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

        monkeypatch.setattr(connecting, "ATTEMPT_SECONDS", 0.01)
        monkeypatch.setattr(transport_module, "TIMEOUT_SECONDS", (0.05, 5.0))
        yield give


@pytest.mark.parametrize("count", [1, 2, 20])
def test_connecting_takes_no_longer_with_more_addresses(
    silent_addresses: Callable[[int, int], None], count: int
) -> None:
    silent_addresses(count, 0)
    clock = Ticking(1.0)
    with pytest.raises(UnavailableError) as left:
        ask("http://crm.test:80", hurried(3_600, clock))
    assert str(left.value) == (
        f"The CRM did not take the request within 1e-09 s: crm.test:80 did not answer in time (connecting timed out). {LOOK}"
    )
    # One check after each of five parts of the time, and seven around it.
    assert clock.now <= 5 * 2 + 7


def test_an_address_that_answers_is_found_behind_some_that_do_not(
    silent_addresses: Callable[[int, int], None],
) -> None:
    with serving(answers(ok(b"{}"))) as server:
        silent_addresses(3, server.port)
        assert ask("http://crm.test:80") == {}


def test_a_run_told_to_stop_leaves_while_it_connects(silent_addresses: Callable[[int, int], None]) -> None:
    silent_addresses(1, 0)
    with pytest.raises(DeadlineExceededError):
        ask("http://crm.test:80", hurried(8, Ticking(1.0)))


def test_an_address_that_refuses_is_passed_over(silent_addresses: Callable[[int, int], None], free: int) -> None:
    silent_addresses(0, free)
    assert "nothing listens at crm.test:80 (connection refused)" in said("http://crm.test:80")
    silent_addresses(1, free)
    assert "nothing listens at crm.test:80 (connection refused)" in said("http://crm.test:80")
