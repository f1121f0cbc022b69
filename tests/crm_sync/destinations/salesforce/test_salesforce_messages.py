"""Salesforce's messages: user data they quote, and the key, stay out of every outcome, error and log."""

import logging
import traceback

import pytest

from core.errors import WinbackError
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.crm.salesforce import (
    COMPLETE,
    FILLED,
    KEY,
    OPENED,
    changes,
    failures,
    refused,
    result,
    salesforce,
    successes,
)


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


CANARY = "ada.lovelace+canary@example.org"
FAILED_ROW = failures(**{CANARY: f"INVALID_FIELD:bad value: {CANARY} of 'x': lovelace@x.y glum:--"})


@pytest.mark.parametrize(
    "replies",
    [
        (refused(400, CANARY, f"{CANARY} {KEY}"),),
        (refused(403, "INSUFFICIENT_ACCESS", f"{CANARY} {KEY}"),),
        (OPENED, refused(400, "TOO_BIG", f"{CANARY} {KEY} glum"), refused(400, CANARY), Canned(200, {"state": "Open"})),
        (*FILLED, Canned(200, {"state": CANARY})),
        (*FILLED, Canned(200, {"state": "Failed", "errorMessage": f"InvalidBatch : {CANARY} '{KEY}'"})),
        (*FILLED, Canned(200, {"state": "Failed", "errorMessage": CANARY})),
        (*FILLED, COMPLETE, result(CANARY)),
        (*FILLED, COMPLETE, successes(), FAILED_ROW),
    ],
)
def test_neither_the_key_nor_a_user_nor_a_value_is_said(
    replies: tuple[Canned, ...],
    run: FakeRunContext,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    with scripted_server(*replies) as script:
        try:
            told = repr(salesforce(script.url).send(changes(CANARY, Churn_Risk_Band__c="glum"), run))
        except WinbackError as error:
            told = "".join(traceback.format_exception(error)) + repr(vars(error))
    streams = capfd.readouterr()
    everything = f"{told} {caplog.text} {streams.out} {streams.err}".lower()
    for secret in (KEY, CANARY, "lovelace", "7f3a9c51"):
        assert secret.lower() not in everything
