"""Error text for a missing or unusable reply: host and port, what happened, and what to do.

The text contains nothing else of the request. The original errors contain paths, queries and sometimes parts of the request.
"""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import urllib3

from core.address import is_loopback
from crm_sync.destination import Finding
from crm_sync.destinations.http.connection import TransientError
from crm_sync.destinations.http.connection_faults import causes_of

_START = ("Correct WINBACK_CRM_URL, or start the local CRM:", "winback local-crm")
_LOOK = ("Correct WINBACK_CRM_URL, or check the network of this machine and the CRM's status page.",)
_PROXY = ("Correct WINBACK_CRM_PROXY, or check the proxy.",)
_BY_PROXY = re.compile(r"Tunnel connection failed: (\d{3})\b")
_NO_ROUTE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EHOSTDOWN, errno.ENETDOWN}


@dataclass(frozen=True)
class Place:
    """A host and its port."""

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Place:
        """The host and port of an address, without its other parts."""
        parts = urlsplit(url)
        return cls(parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def fault_of(error: BaseException, url: str, proxy: str = "") -> TransientError:
    """Return the fault of a request to `url`, from the error that it ended with. `proxy` is the address of the proxy in use."""
    causes = list(causes_of(error))
    if proxy and any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in causes):
        place = Place.of(proxy)
        return TransientError("", finding=Finding("failed", _happened(causes, f"the proxy at {place}"), _PROXY))
    place = Place.of(url)
    is_here = is_loopback(place.host)
    finding = Finding("warning" if is_here else "failed", _happened(causes, str(place)), _START if is_here else _LOOK)
    # A server on this machine will not start within the retry budget, and a person may be waiting.
    is_lasting = is_here and any(isinstance(cause, ConnectionRefusedError) for cause in causes)
    return TransientError("", finding=finding, is_lasting=is_lasting)


def _happened(causes: Iterable[BaseException], place: str) -> str:
    """The text for the first cause that matches a table, from the most specific table to the most general."""
    tables = (_of_name, _of_connection, _of_network, _of_tls, _of_time, _of_proxy, _of_reset, _of_reply)
    told = (text for of in tables for cause in causes if (text := of(cause)))
    return next(told, "the connection to {} failed").format(place)


def _of_name(cause: BaseException) -> str | None:
    return "the name of {} could not be resolved" if isinstance(cause, socket.gaierror) else None


def _of_connection(cause: BaseException) -> str | None:
    if isinstance(cause, ConnectionRefusedError):
        return "nothing listens at {} (connection refused)"
    if isinstance(cause, urllib3.exceptions.ConnectTimeoutError) and not isinstance(
        cause, urllib3.exceptions.NewConnectionError
    ):
        return "{} did not answer in time (connecting timed out)"
    return None


def _of_network(cause: BaseException) -> str | None:
    if isinstance(cause, OSError) and cause.errno in _NO_ROUTE:
        return "no route to {} (network unreachable)"
    if isinstance(cause, PermissionError):
        return "this machine does not allow a connection to {} (permission denied)"
    return None


def _of_tls(cause: BaseException) -> str | None:
    return "the TLS handshake with {} failed" if isinstance(cause, ssl.SSLError) else None


def _of_time(cause: BaseException) -> str | None:
    if isinstance(cause, urllib3.exceptions.ReadTimeoutError | TimeoutError):
        return "{} did not send a complete reply in time (timed out)"
    return None


def _of_proxy(cause: BaseException) -> str | None:
    found = _BY_PROXY.search(str(cause)) if isinstance(cause, OSError) else None
    return f"{{}} answered HTTP {found[1]}" if found else None


def _of_reset(cause: BaseException) -> str | None:
    is_reset = isinstance(cause, ConnectionError)
    return "{} closed the connection before it had replied (connection reset)" if is_reset else None


def _of_reply(cause: BaseException) -> str | None:
    if isinstance(cause, http.client.HTTPException | urllib3.exceptions.HTTPError):
        return "the reply of {} was cut off or is not HTTP"
    return None
