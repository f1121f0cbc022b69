"""Klaviyo's messages: user data they quote, and the key, stay out of every outcome, error and log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crm_sync.destination import BatchRefusedError
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.klaviyo import DELIVERED, KEY, at, changes, described_crm, error, job, klaviyo
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def crm(tmp_path: Path, run: FakeRunContext) -> Iterator[LocalCrm]:
    with described_crm(tmp_path, run) as server:
        yield server


CANARY = "ada.lovelace+canary@example.org"


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        (
            {
                "errors": [
                    {"code": "invalid", "title": "Invalid input.", "detail": CANARY, "source": {"pointer": at(0)}}
                ]
            },
            "invalid",
            "Invalid input. external_id",
        ),
        ({"errors": [{"code": "invalid", "title": f"No {CANARY}"}]}, "invalid", "No ..."),
        ({"errors": []}, "http_400", None),
        ({"errors": {}}, "http_400", None),
        ({"errors": [{"code": 7, "title": None, "source": []}]}, "http_400", None),
        ([CANARY], "http_400", None),
        (CANARY.encode(), "http_400", None),
    ],
)
def test_a_refusal_of_the_whole_import_is_told_by_its_code_and_quotes_nobody(
    body: Any, code: str, reason: str | None, run: FakeRunContext
) -> None:
    with scripted_server(Canned(400, body)) as server, pytest.raises(BatchRefusedError) as refusal:
        klaviyo(server.url).send(changes(CANARY), run)
    assert (refusal.value.http_status, refusal.value.code, refusal.value.reason) == (400, code, reason)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "detail",
    [
        f"{CANARY} is not valid",
        f"'{CANARY}' is not valid",
        "lovelace is not valid",
        "Left at the income step is not a number",
        "silver is not a number",
    ],
)
def test_an_error_of_a_row_quotes_neither_its_id_nor_its_values(detail: str, run: FakeRunContext) -> None:
    batch = changes("lovelace", reasons=["Left at the income step"], band="silver")
    replies = (Canned(202, job("complete", 1, 0, 1)), Canned(200, {"data": [error(at(0), detail=detail)]}))
    with scripted_server(*replies) as server:
        (outcome,) = klaviyo(server.url).send(batch, run)
    assert (outcome.kind, outcome.code) == ("rejected", "invalid")
    assert outcome.reason in ("... is not valid", "... is not a number")


def test_what_is_sent_reaches_no_log(
    crm: LocalCrm, run: FakeRunContext, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    assert klaviyo(crm.url).send(changes(CANARY), run) == [DELIVERED]
    streams = capfd.readouterr()
    everything = caplog.text + streams.out + streams.err
    assert [secret for secret in (KEY, CANARY, "lovelace") if secret in everything] == []
