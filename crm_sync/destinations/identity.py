"""Identity of a CRM as one text: which system holds what was delivered."""

from __future__ import annotations

from ipaddress import ip_address

from core.address import address_of


def identity_of(name: str, url: str) -> str:
    """Return the adapter's name and the host, such as `braze rest.iad-01.braze.eu`; `braze local` for a CRM on this machine.

    The port does not count, because the local CRM's changes with each start. Two accounts on one host have the same identity:
    only the key tells them apart, and no part of the key may be stored.
    """
    address = address_of(url)
    host = address.host if address else ""
    return f"{name} {'local' if _is_loopback(host) else host or 'unknown'}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, section 6.3
