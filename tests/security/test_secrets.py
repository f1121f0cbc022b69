"""Secrets: the key goes only to its host, and no output contains it or text about a user."""

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import WinbackError
from core.settings import Settings
from crm_sync.destination import UnavailableError
from crm_sync.destinations.braze import Braze
from crm_sync.destinations.http.rate_limiter import RateLimiter
from crm_sync.destinations.http.transport import RetryBudget, Transport
from crm_sync.diff import Change
from jobs.context import open_destination
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.sync.builders import MAPPING

KEY = "kEy-7f3a9c51-canary"
CANARY = "ada.lovelace+canary@example.org"
SUCCESS = {"message": "success"}


def quoting(text: str) -> Canned:
    return Canned(201, SUCCESS | {"errors": [{"type": text, "input_array": "attributes", "index": 0}]})


@pytest.mark.parametrize(
    ("said", "budget_seconds"),
    [
        (Canned(503, {"message": f"{KEY} {CANARY}"}), 1e-9),
        (Canned(429, {"message": CANARY}, {"Retry-After": "999"}), 1),
        (Canned(400, {"message": f"{CANARY} is not valid for {KEY}"}), 1),
        (Canned(400, f"{CANARY} is not valid for {KEY}".encode()), 1),
        (Canned(401, {"message": f"{KEY} is not valid"}), 1),
        (Canned(302, {}, {"Location": f"http://127.0.0.1:9/{CANARY}?{KEY}"}), 1),
        (Canned(201, CANARY.encode()), 1e-9),
        (Canned(201, [CANARY]), 1e-9),
        (Canned(201, {"message": CANARY}), 1),
        (Canned(201, b"", {"Content-Length": "1000", "Connection": "close"}), 1e-9),
        (quoting(f"The value {CANARY} is not valid"), 1),
        (quoting(f"'{CANARY}' is not valid"), 1),
        (quoting(f"invalid: {CANARY}"), 1),
        (quoting(f"({CANARY})"), 1),
        (quoting(KEY), 1),
    ],
)
def test_neither_the_key_nor_an_id_nor_the_address_is_said(
    said: Canned, budget_seconds: float, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with scripted_server(said) as script:
        destination, addresses = Braze(script.url, KEY, budget=RetryBudget(budget_seconds)), list[str]()
        try:
            told = repr(destination.send([Change(CANARY, {"score": 0.5})], FakeRunContext()))
        except WinbackError as error:
            told = "".join(traceback.format_exception(error))
            # Host and port appear only in errors of broken connections, for the person who investigates.
            is_broken = isinstance(error, UnavailableError) and error.finding is not None
            parts = (script.url,) if is_broken else (script.url, script.url.rpartition(":")[2])
            addresses = [address for address in parts if address in str(error)]
        assert addresses == []
    streams = capfd.readouterr()
    everything = f"{told} {destination!r} {vars(destination)} {caplog.text} {streams.out} {streams.err}".lower()
    for secret in (KEY, CANARY, "lovelace", "7f3a9c51"):
        assert secret.lower() not in everything


@pytest.mark.parametrize(
    "made",
    [
        lambda: Braze("https://rest.example", KEY),
        lambda: Transport("https://rest.example", {"Authorization": f"Bearer {KEY}"}, RateLimiter([])),
        lambda: Settings(crm_api_key=KEY),
        lambda: Settings(crm_api_key=KEY).model_dump_json(),
        lambda: open_destination(Settings(crm_api_key=KEY), MAPPING),
    ],
)
def test_nothing_that_holds_the_key_shows_it(made: Callable[[], Any]) -> None:
    assert KEY not in f"{made()!r} {made()}"


def test_proxies_and_credentials_of_the_environment_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with scripted_server(Canned(201, SUCCESS)) as proxy, scripted_server(Canned(201, SUCCESS)) as script:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        Braze(script.url, KEY).send([Change("ada", {"score": 0.5})], FakeRunContext())
    assert proxy.asked == []
    assert script.asked[0].headers["authorization"] == f"Bearer {KEY}"


def test_the_key_does_not_follow_a_redirect() -> None:
    with scripted_server(Canned(201, SUCCESS)) as elsewhere:
        there = {"Location": elsewhere.url + "/users/track"}
        with scripted_server(Canned(307, {}, there)) as script, pytest.raises(WinbackError):
            Braze(script.url, KEY).send([Change("ada", {"score": 0.5})], FakeRunContext())
    assert elsewhere.asked == []
