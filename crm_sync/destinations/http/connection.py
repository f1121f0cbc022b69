"""HTTP connections with a time limit for each exchange and a strict match of replies to requests.

http.client has two time limits, to connect and between two bytes, and returns a 102 or a 103 as the reply. Here the time is
checked at each part of a request and its reply, and interim replies are skipped (RFC 9110, 15.2). A connection that carried
anything other than one reply per request is closed.
"""

from __future__ import annotations

import base64
import http.client
import io
import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from core.errors import WinbackError
from crm_sync.destination import DeadlineExceededError, Finding, Run
from crm_sync.destinations.connecting import connect_first

EXCHANGE_SECONDS = 120.0  # from the request's first byte to the reply's last
# How long an exchange in progress may continue when the run must end: shorter than the sync waits for it (crm_sync/sync.py).
GRACE_SECONDS = 2.0
LOOK_SECONDS = 0.1  # interval of time checks while no bytes arrive
SEND_BYTES = 64 << 10  # between two time checks
MAX_INTERIM_REPLIES = 32


class TransientError(WinbackError):
    """The request may succeed if repeated. `wait_seconds` is the wait that the server requested; `has_answered`: it replied.

    `finding` says what happened to the connection and what to do, and replaces `why`. `is_lasting`: retrying within this run
    cannot help.
    """

    def __init__(
        self,
        why: str,
        wait_seconds: float | None = None,
        code: str = "unavailable",
        *,
        has_answered: bool = False,
        finding: Finding | None = None,
        is_lasting: bool = False,
    ) -> None:
        super().__init__(finding.says if finding else why)
        self.wait_seconds = wait_seconds
        self.code = code
        self.has_answered = has_answered
        self.finding = finding
        self.is_lasting = is_lasting


class Exchange:
    """Time limits of one request and its reply. `part_seconds` is the longest time without any byte sent or received."""

    def __init__(self, run: Run, part_seconds: float) -> None:
        self.part_seconds = part_seconds
        self._run = run
        self._began = run.clock()
        self._over_at: float | None = None

    def look(self) -> None:
        """Raises: TransientError if it takes too long, DeadlineExceededError if the run must end and the grace period is over."""
        now = self._run.clock()
        if now - self._began > EXCHANGE_SECONDS:
            raise TransientError(f"a request and a reply that took longer than {EXCHANGE_SECONDS:g} s")
        try:
            self._run.check()
        except DeadlineExceededError:
            if self._over_at is None:
                self._over_at = now
            if now - self._over_at >= GRACE_SECONDS:
                raise


def _in_time(exchange: Exchange, sock: Any, act: Callable[[], int]) -> int:
    """Return the result of `act`, which sends or receives a part, and check the time while it waits."""
    waited = 0.0
    while waited < exchange.part_seconds:
        exchange.look()
        wait = min(LOOK_SECONDS, exchange.part_seconds - waited)
        sock.settimeout(wait)
        try:
            return act()
        except TimeoutError:
            waited += wait
    raise TimeoutError("nothing came or went")


class _Parts(io.RawIOBase):
    """Reads from a socket part by part, with a time check before each."""

    def __init__(self, sock: Any, exchange: Exchange) -> None:
        # The socket's own file keeps a socket that is closed meanwhile open until the reply is read.
        self._file: io.RawIOBase = sock.makefile("rb", buffering=0)
        self._sock, self._exchange = sock, exchange
        self.has_ended = self.is_at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.has_ended:
            return 0
        count = _in_time(self._exchange, self._sock, lambda: int(self._sock.recv_into(buffer)))
        self.is_at_end = not count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Reply(http.client.HTTPResponse):
    """A final reply. `leave` closes the connection; it is called if more than this reply arrived on it."""

    def __init__(
        self, sock: Any, exchange: Exchange, leave: Callable[[], None], *, is_last: bool = False, **more: Any
    ) -> None:
        super().__init__(sock, **more)
        self.fp.close()
        # `is_last`: no further reply may come on this connection.
        self._parts, self._leave, self._is_last = _Parts(sock, exchange), leave, is_last
        self.fp = io.BufferedReader(self._parts)

    def begin(self) -> None:
        super().begin()
        if self._parts.is_at_end:
            raise http.client.HTTPException("headers that were cut off")
        has_two_ends = _see_framing(self.headers)
        if self._is_last or self.status < 200 or has_two_ends:
            self.will_close = True

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INTERIM_REPLIES):
            version, status, reason = super()._read_status()  # type: ignore[misc] # http.client's own, in every version
            if not 100 <= status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            self._is_last = True
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("interim replies without end")

    def _close_conn(self) -> None:
        rest = self.fp
        self._parts.has_ended = True
        is_more = bool(rest and not rest.closed and rest.peek(1))
        super()._close_conn()  # type: ignore[misc]
        if is_more:
            self._leave()


def _see_framing(headers: http.client.HTTPMessage) -> bool:
    """Check that the headers define the end of the body (RFC 9112, 6.3). Returns whether they define it twice (smuggling).

    Raises: HTTPException. If http.client cannot read the length, it reads the body until the connection ends. It also takes what
    follows an invalid header line as the beginning of the body.
    """
    rest = headers.get_payload()
    codings = ",".join(headers.get_all("transfer-encoding", [])).strip().lower()
    lengths = {each.strip() for given in headers.get_all("content-length", []) for each in given.split(",")}
    is_length = len(lengths) <= 1 and all(re.fullmatch("[0-9]{1,15}", each) for each in lengths)
    if (isinstance(rest, str) and rest) or codings not in ("", "chunked", "identity") or not is_length:
        raise http.client.HTTPException("headers that do not say where the body ends")
    return bool(codings and lengths)


def _pools(under_way: Callable[[], Exchange]) -> dict[str, type[HTTPConnectionPool]]:
    """Pools of these connections by scheme. `under_way` returns the current exchange."""

    class Bounded(HTTPConnection):
        is_cut = False  # the server accepted only part of the request

        def connect(self) -> None:
            self.is_cut = False
            super().connect()

        def _new_conn(self) -> socket.socket:
            host, seconds = str(self._dns_host), float(self.timeout or 0)  # from TIMEOUT_SECONDS
            try:
                return connect_first(host, self.port, seconds, under_way().look, self.socket_options or ())
            except socket.gaierror as error:
                raise NameResolutionError(self.host, self, error) from error
            except TimeoutError as error:
                raise ConnectTimeoutError(self, "no address answered") from error
            except OSError as error:
                raise NewConnectionError(self, "no connection could be made") from error

        def send(self, data: Any) -> None:
            if self.sock is None:
                self.connect()
            rest = memoryview(data)
            while rest and not self.is_cut:
                try:
                    rest = rest[_in_time(under_way(), self.sock, partial(self.sock.send, rest[:SEND_BYTES])) :]
                except OSError:
                    # The server may have replied already, for instance with a 413. If not, reading the reply fails.
                    self.is_cut = True

        def _tunnel(self) -> None:
            super()._tunnel()
            self.sock.settimeout(self.timeout)  # for the handshake with the CRM behind the proxy

        def response_class(self, sock: Any, **more: Any) -> _Reply:  # type: ignore[override] # called like the class
            return _Reply(sock, under_way(), self.close, is_last=self.is_cut, **more)

    class BoundedTls(Bounded, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Bounded

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = BoundedTls

    return {"http": Pool, "https": TlsPool}


class Wire(HTTPAdapter):
    """The connections of one thread's session. `exchange` is set before each request."""

    exchange: Exchange

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **more)
        self.poolmanager.pool_classes_by_scheme = _pools(lambda: self.exchange)

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """The proxy's credentials, encoded in UTF-8 (RFC 7617, 2.1). requests supports only Latin letters."""
        user, at, _ = urlsplit(proxy).netloc.rpartition("@")
        name, _, password = user.partition(":")
        basic = base64.b64encode(unquote_to_bytes(name) + b":" + unquote_to_bytes(password)).decode()
        return {"Proxy-Authorization": f"Basic {basic}"} if at else {}

    def proxy_manager_for(self, proxy: Any, **more: Any) -> Any:
        """Make the pools of connections through a proxy."""
        manager = super().proxy_manager_for(proxy, **more)
        manager.pool_classes_by_scheme = _pools(lambda: self.exchange)
        return manager
