"""The identity of a CRM: its name and host, so that another CRM is noticed and another port is not."""

from __future__ import annotations

import pytest

from crm_sync.destinations.identity import identity_of


@pytest.mark.parametrize(
    ("name", "url", "identity"),
    [
        ("braze", "https://rest.iad-01.braze.eu", "braze rest.iad-01.braze.eu"),
        ("braze", "https://REST.iad-01.Braze.eu:443/", "braze rest.iad-01.braze.eu"),
        ("salesforce", "https://acme.my.salesforce.com/some/path", "salesforce acme.my.salesforce.com"),
        ("hubspot", "https://api.hubapi.com", "hubspot api.hubapi.com"),
        # The local CRM listens on another port each time.
        ("braze", "http://127.0.0.1:8765", "braze local"),
        ("braze", "http://127.0.0.1:50123", "braze local"),
        ("klaviyo", "http://localhost:1", "klaviyo local"),
        ("klaviyo", "http://[::1]:1", "klaviyo local"),
        ("klaviyo", "http://[0:0:0:0:0:0:0:1]:1", "klaviyo local"),
        ("klaviyo", "http://127.1.2.3", "klaviyo local"),
        # A private address is another machine, and a name may begin like this one's.
        ("braze", "https://10.0.0.1", "braze 10.0.0.1"),
        ("braze", "https://[2001:db8::1]:8443", "braze 2001:db8::1"),
        ("braze", "https://localhost.example.com", "braze localhost.example.com"),
    ],
)
def test_a_crm_is_its_name_and_host_without_the_port(name: str, url: str, identity: str) -> None:
    assert identity_of(name, url) == identity
