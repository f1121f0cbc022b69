"""HubSpot's messages: user data they quote, and the key, stay out of every outcome, error and log."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from core.errors import WinbackError
from crm_sync.destination import BatchRefusedError
from crm_sync.destinations.http.transport import Reply
from crm_sync.destinations.hubspot.replies import verdicts
from crm_sync.diff import Change
from tests.support.crm.hubspot import (
    ID,
    Connect,
    changes,
    complete,
    connecting,
    error,
)
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def connected() -> Iterator[Connect]:
    with connecting() as connect:
        yield connect


MEAN = "Ada Lovelace <ada@example.org> +44 20 1234"


@pytest.mark.parametrize(
    ("message", "more", "code", "reason"),
    [
        (
            'Property values were not valid: [{"isValid":false,"message":"'
            + MEAN
            + ']; not valid","error":"INVALID_INTEGER",'
            '"name":"churn_probability"}]',
            {},
            "invalid_integer",
            "Property values were not valid: churn_probability",
        ),
        (
            f"Duplicate IDs found in batch input: [{MEAN}]. IDs must be unique",
            {},
            "validation_error",
            "Duplicate IDs found in batch input",
        ),
        (f"The contact {MEAN} cannot be written", {}, "validation_error", None),
        ("discount was not valid", {"errors": [{"code": "INVALID_LONG"}]}, "invalid_long", "discount was not valid"),
        ("No", {"category": None, "errors": [{"code": MEAN}]}, "unknown_error", "No"),
        (None, {"category": MEAN}, "unknown_error", None),
        (["x"], {"category": {"a": 1}, "errors": "x"}, "unknown_error", None),
    ],
)
def test_what_a_message_quotes_of_a_user_is_not_kept(message: Any, more: Any, code: str, reason: str | None) -> None:
    batch = [Change("Ada Lovelace", {"churn_probability": 0.5, "churn_reasons": ["Lovelace"]})]
    reply = Reply(207, {}, "", complete(errors=[error("0", message=message, **more)]))
    (outcome,) = verdicts(reply, batch, ID)
    assert outcome.code == code
    assert not any(part in f"{outcome}" for part in ("Ada", "Lovelace", "ada@", "example", "+44", "1234"))
    if reason:
        assert outcome.reason == reason


def test_a_refusal_that_quotes_a_user_is_not_kept_either(connected: Connect, run: FakeRunContext) -> None:
    body = {"status": "error", "message": f"Contact Ada of {MEAN} is bad", "category": "VALIDATION_ERROR"}
    with scripted_server(Canned(400, body)) as script, pytest.raises(BatchRefusedError) as refusal:
        connected(script.url).send(changes("Ada"), run)
    assert (refusal.value.http_status, refusal.value.code) == (400, "validation_error")
    assert "Ada" not in str(refusal.value.reason)
    assert "ada@" not in str(refusal.value.reason)


def test_the_key_and_the_users_appear_in_no_log_and_no_error(
    connected: Connect, run: FakeRunContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    user = "user-" + "canary"  # in two parts, because a traceback quotes this line
    for status in (400, 401, 404, 429, 500):
        with scripted_server(Canned(status, {"message": user})) as script:
            try:
                connected(script.url, budget_seconds=1e-9).send(changes(user), run)
            except WinbackError as failure:
                told.append("".join(traceback.format_exception(failure)) + str(vars(failure)))
    assert len(told) == 5
    assert "canary" not in "".join(told) + caplog.text
