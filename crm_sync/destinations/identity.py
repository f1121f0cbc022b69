"""Identity of a CRM as one text: which system holds what was delivered."""

from __future__ import annotations

from core.address import address_of, is_loopback


def identity_of(name: str, url: str) -> str:
    """Return the adapter's name and the host, such as `braze rest.iad-01.braze.eu`; `braze local` for a CRM on this machine.

    The port does not count, because the local CRM's changes with each start. Two accounts on one host have the same identity:
    only the key tells them apart, and no part of the key may be stored.
    """
    address = address_of(url)
    host = address.host if address else ""
    return f"{name} {'local' if is_loopback(host) else host or 'unknown'}"
