"""Connects to the first address of a host that answers, with one time limit for all addresses.

http.client and urllib3 try one address after the other, each with the full time limit. A host with eight addresses behind a
firewall that drops packets would take 40 seconds. Here the next address is tried while earlier ones are pending (RFC 8305,
section 5).
"""

from __future__ import annotations

import os
import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

ATTEMPT_SECONDS = 0.25  # until the next address is tried too: RFC 8305, section 8


def connect_first(
    host: str, port: int, seconds: float, look: Callable[[], None], options: Iterable[Any] = ()
) -> socket.socket:
    """Return a socket connected to one of the host's addresses. `look` is called while waiting and may raise to end the wait.

    `options` are set on each socket before it connects. Name resolution is not part of `seconds`; the system limits it.

    Raises: socket.gaierror, TimeoutError, another OSError if every address failed, and what `look` raises.
    """
    addresses = deque(socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM))
    attempts = _Attempts(tuple(options))
    waited = 0.0
    try:
        while waited < seconds and (addresses or attempts.are_open):
            if addresses:
                attempts.begin(*addresses.popleft())
            if not attempts.are_open:
                continue
            wait = min(ATTEMPT_SECONDS, seconds - waited)
            waited += wait
            connected, has_ended = attempts.wait(wait)
            if connected:
                connected.settimeout(seconds)
                return connected
            if not has_ended:
                look()
        raise attempts.error
    finally:
        attempts.close()


class _Attempts:
    """Connection attempts in progress."""

    def __init__(self, options: tuple[Any, ...]) -> None:
        self._options = options
        self._selector = selectors.DefaultSelector()
        self._errors: list[OSError] = []

    @property
    def are_open(self) -> bool:
        return bool(self._selector.get_map())

    @property
    def error(self) -> OSError:
        """The most useful error: a host's refusal first, then a timeout, then an error of this machine."""
        refused = next((error for error in self._errors if isinstance(error, ConnectionError)), None)
        if refused or not self.are_open:
            return refused or next(iter(self._errors), OSError("the name has no address"))
        return TimeoutError("no address answered")

    def begin(self, family: int, kind: int, protocol: int, _: str, address: Any) -> None:
        try:
            attempt = socket.socket(family, kind, protocol)
        except OSError as error:
            self._errors.append(error)
            return
        try:
            for option in self._options:
                attempt.setsockopt(*option)
            attempt.setblocking(False)
            attempt.connect(address)
        except BlockingIOError:
            pass
        except OSError as error:
            self._errors.append(error)
            attempt.close()
            return
        self._selector.register(attempt, selectors.EVENT_WRITE, attempt)

    def wait(self, seconds: float) -> tuple[socket.socket | None, bool]:
        """Return a connected socket or None, and whether any attempt ended."""
        ended: list[socket.socket] = [key.data for key, _ in self._selector.select(seconds)]
        for attempt in ended:
            self._selector.unregister(attempt)
            code = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                return attempt, True
            self._errors.append(OSError(code, os.strerror(code)))
            attempt.close()
        return None, bool(ended)

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.data.close()
        self._selector.close()
