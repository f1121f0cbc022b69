"""Strict parser of URLs: a scheme, a host, and optionally a port and a path.

URL parsers disagree on user names, backslashes, blanks, percent signs, dots in paths and other alphabets. The API key goes to
the host that the last parser finds. A URL with any of these is therefore rejected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[a-z0-9_~-][a-z0-9._~-]*)*)/?",
    re.IGNORECASE | re.ASCII,
)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_MAX_HOST = 253  # characters of a name in DNS


@dataclass(frozen=True)
class Address:
    """Scheme and host in lower case, an IPv6 host without its brackets."""

    scheme: str
    host: str

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine, by one of its usual names."""
        return self.host in LOCAL_HOSTS


def is_loopback(host: str) -> bool:
    """Return whether a host, an IPv6 one without brackets, is this machine: a loopback address or RFC 6761's names for it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def address_of(url: str) -> Address | None:
    """Parse a URL; returns None if it is not a valid address."""
    found = _ADDRESS.fullmatch(url)
    if not found or not 1 <= int(found["port"] or 443) <= 65_535:
        return None
    host = found["host"].lower()
    return Address(found["scheme"].lower(), host.strip("[]")) if _is_host(host) else None


def _is_host(host: str) -> bool:
    labels = host.split(".")
    try:
        if host.startswith("["):
            IPv6Address(host[1:-1])
        elif re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
            # Programs read other forms of a number, such as 127.1 or 0x7f000001, differently.
            IPv4Address(host)
        else:
            return len(host) <= _MAX_HOST and all(map(_LABEL.fullmatch, labels))
    except ValueError:
        return False
    return True
