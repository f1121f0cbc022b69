"""Local CRM: pages of other sites cannot use it, and no deleted data stays in its files."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from sandbox.local_crm.server import LocalCrm
from sandbox.local_crm.store.profiles import CrmStore
from tests.support.sync.builders import TEN

KEY = {"Authorization": "Bearer local-key"}
PATHS = ["/_control/requests", "/_control/faults", "/", "/segments/high-risk", "/custom_attributes", "/api/profiles"]


@pytest.fixture(scope="module")
def crm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path_factory.mktemp("doors") / "crm.db") as server:
        yield server


def raw(crm: LocalCrm, content: bytes) -> bytes:
    """Return everything that the server replies to these bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", int(crm.url.rpartition(":")[2])), timeout=10) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def get(crm: LocalCrm, path: str, **headers: str) -> int:
    return requests.get(crm.url + path, headers=KEY | headers, timeout=10).status_code


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example#@127.0.0.1",
        "127.0.0.1@evil.example",
        "0.0.0.0",  # noqa: S104 - a host name in a request
        "127.0.0.2",
        "2130706433",
        "localhost.",
        "127.0.0.1:port",
        "",
    ],
)
def test_a_request_for_another_host_is_refused_on_every_path(crm: LocalCrm, path: str, host: str) -> None:
    assert get(crm, path, Host=host) == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:8765", "127.0.0.1:1", "[::1]:8765"])
def test_a_request_for_this_machine_is_answered(crm: LocalCrm, host: str) -> None:
    assert get(crm, "/_control/requests", Host=host) == 200
    assert get(crm, "/", Host=host, Origin=f"http://{host}") == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "file://", "http://", "*", ""]
)
def test_a_page_of_another_site_is_refused_on_every_path(crm: LocalCrm, path: str, origin: str) -> None:
    assert get(crm, path, Origin=origin) == 403


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "PUT"])
@pytest.mark.parametrize(
    "path", ["/_control/faults", "/users/track", "/users/delete", "/crm/v3/objects/contacts/batch/upsert"]
)
def test_nothing_is_written_or_ordered_from_another_site(crm: LocalCrm, method: str, path: str) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}):
        body = {"kind": "hang", "attributes": [{"external_id": "ada"}], "external_ids": ["ada"]}
        reply = requests.request(method, crm.url + path, json=body, headers=KEY | headers, timeout=10)
        assert reply.status_code == 403
    assert (crm.desk.faults.waiting, crm.store.profiles()) == ([], {})


def test_a_link_from_another_site_opens_a_page_and_its_script_reads_none(crm: LocalCrm) -> None:
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert get(crm, "/", **elsewhere, **{"Sec-Fetch-Mode": "navigate"}) == 200
    assert get(crm, "/", **elsewhere, **{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}) == 200
    assert get(crm, "/", **elsewhere, **{"Sec-Fetch-Mode": "no-cors"}) == 403


@pytest.mark.parametrize("part", ["iframe", "frame", "embed", "object"])
def test_a_page_of_another_site_shows_none_of_ours_within_it(crm: LocalCrm, part: str) -> None:
    """A hidden page could be placed under the reader's clicks."""
    within = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": part}
    assert get(crm, "/", **within) == 403
    headers = requests.get(crm.url, timeout=10).headers
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert (headers["Cross-Origin-Resource-Policy"], headers["X-Content-Type-Options"]) == ("same-origin", "nosniff")


@pytest.mark.parametrize(
    "head",
    [
        b"Host: 127.0.0.1\r\nHost: evil.example\r\n",
        b"Host: evil.example\r\nHost: 127.0.0.1\r\n",
        b"Host: evil.example\r\nX-Forwarded-Host: 127.0.0.1\r\n",
        b"Host: evil.example\r\nHTTP_HOST: 127.0.0.1\r\n",
        b"Host: 127.0.0.1,evil.example\r\n",
        b"Host: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\nOrigin: https://evil.example\r\n",
        b"Host: 127.0.0.1\r\nOrigin: http://127.0.0.1 https://evil.example\r\n",
        b"",
    ],
)
def test_a_request_that_names_two_places_or_none_is_refused(crm: LocalCrm, head: bytes) -> None:
    assert raw(crm, b"GET /_control/requests HTTP/1.1\r\n" + head + b"Connection: close\r\n\r\n").startswith(
        b"HTTP/1.1 403 "
    )


@pytest.mark.parametrize("length", [b"-5", b"abc", b"1_0", b"+9", b"9" * 5_000, b""])
def test_what_follows_an_unreadable_length_is_no_second_request(
    crm: LocalCrm, length: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    smuggled = b"DELETE /_control/faults HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    content = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: " + length + b"\r\n\r\n" + smuggled
    assert raw(crm, content).count(b"HTTP/1.1 ") == 1
    streams = capfd.readouterr()
    assert "_control" not in f"{caplog.text} {streams.out} {streams.err}"


def test_what_is_no_request_is_not_quoted(
    crm: LocalCrm, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    raw(crm, b'{"external_id": "canary-of-a-user"}\r\n\r\n')
    streams = capfd.readouterr()
    assert "canary" not in f"{caplog.text} {streams.out} {streams.err}"
    assert "The local CRM received data that is not an HTTP request." in caplog.text


# Deleted data

CANARY = "canary-7f3a9c51"


def is_in_the_files(folder: Path, text: str) -> bool:
    return any(text.encode() in path.read_bytes() for path in folder.iterdir())


def fill(store: CrmStore, user: str) -> None:
    """Add other users, and one who is written often: their values lie on many pages, and the log holds earlier versions."""
    for n in range(40):
        others = [{"external_id": f"u{n:02d}-{m}", "band": f"{n}-{m}" * 9} for m in range(20)]
        store.apply([*others, {"external_id": user, "band": f"{user} {n} " * n}], TEN, run_id="00000001-run")


def test_of_a_deleted_user_no_byte_is_left_in_any_file(tmp_path: Path) -> None:
    store = CrmStore(tmp_path / "crm.db")
    fill(store, CANARY)
    assert is_in_the_files(tmp_path, CANARY)
    assert store.delete([CANARY], TEN) == 1
    assert not is_in_the_files(tmp_path, CANARY)  # while it runs
    store.close()
    assert not is_in_the_files(tmp_path, CANARY)
    assert is_in_the_files(tmp_path, "u07-3")


def test_a_file_of_before_loses_what_was_deleted_when_it_is_opened(tmp_path: Path) -> None:
    store = CrmStore(tmp_path / "crm.db")
    fill(store, CANARY)
    store.close()
    with sqlite3.connect(tmp_path / "crm.db") as old:
        old.executescript("pragma secure_delete = off; pragma user_version = 0;")
        old.execute("delete from profiles where external_id = ?", (CANARY,))
        old.execute("delete from writes where external_id = ?", (CANARY,))
    old.close()
    assert is_in_the_files(tmp_path, CANARY)
    CrmStore(tmp_path / "crm.db").close()
    assert not is_in_the_files(tmp_path, CANARY)


@pytest.mark.parametrize("path", ["/users/delete", "/crm/v3/objects/contacts/gdpr-delete"])
def test_an_erasure_over_the_wire_leaves_no_byte(tmp_path: Path, path: str) -> None:
    with LocalCrm(tmp_path / "crm.db") as crm:
        fill(crm.store, CANARY)
        body = {"external_ids": [CANARY], "objectId": CANARY, "idProperty": "winback_user_id"}
        assert requests.post(crm.url + path, json=body, headers=KEY, timeout=10).ok
        assert not is_in_the_files(tmp_path, CANARY)
