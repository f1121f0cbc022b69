"""Access tokens of Salesforce: fixed, or renewed with OAuth client credentials when they expire during a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from core.errors import ContractError
from core.settings import Settings, read_settings
from crm_sync.destination import DeadlineExceededError, RequestRefusedError, UnavailableError
from crm_sync.destinations.adapter import ClientCredentials
from crm_sync.destinations.factory import CrmFile, connect
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.destinations.salesforce.client import Salesforce
from jobs.doctor.crm import crm as examined
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.crm.salesforce import (
    COMPLETE,
    DELIVERED,
    FILLED,
    KEY,
    NONE_FAILED,
    OPENED,
    UNPACED,
    changes,
    refused,
    salesforce,
    successes,
    wire,
)
from tests.support.sync.builders import MAPPING

CREDENTIALS = ClientCredentials("local-client", KEY)
EXPIRED = (
    refused(401, "INVALID_SESSION_ID", "Session expired or invalid"),
    refused(400, "InvalidSessionId", "Invalid session id"),
    Canned(400, {"exceptionCode": "InvalidSessionId", "exceptionMessage": "Invalid session id"}),
    Canned(400, b"<error><exceptionCode>InvalidSessionId</exceptionCode></error>"),
)
TOKEN = Canned(200, {"access_token": "00Dnew", "token_type": "Bearer"})


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[LocalCrm]:
    with LocalCrm(tmp_path / "crm.db", api_key=KEY) as server:
        yield server


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


def logged_in(url: str, credentials: ClientCredentials = CREDENTIALS) -> Salesforce:
    return Salesforce(url, credentials, UNPACED, RetryBudget(120.0))


def test_a_run_outlives_its_tokens(crm: LocalCrm, run: FakeRunContext) -> None:
    destination = logged_in(crm.url)
    assert destination.send(changes("ada"), run) == [DELIVERED]
    wire(crm).tokens.clear()
    assert destination.send(changes("bob"), run) == [DELIVERED]
    wire(crm).tokens.clear()
    assert [each.kind for each in destination.erase(["ada"], run)] == ["delivered"]
    assert (wire(crm).tokens_given, sorted(crm.store.profiles())) == (3, ["bob"])


def test_a_token_that_ends_while_a_job_is_asked_after_loses_nothing(crm: LocalCrm) -> None:
    class Forgetful(FakeRunContext):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            wire(crm).tokens.clear()

    assert logged_in(crm.url).send(changes("ada", "bob"), Forgetful()) == [DELIVERED, DELIVERED]
    assert len(wire(crm).jobs) == 1


@pytest.mark.parametrize("expired", EXPIRED)
def test_an_ended_token_is_renewed_however_it_is_told(expired: Canned, run: FakeRunContext) -> None:
    replies = (TOKEN, expired, TOKEN, *FILLED, COMPLETE, successes("ada"), NONE_FAILED)
    with scripted_server(*replies) as script:
        assert logged_in(script.url).send(changes("ada"), run) == [DELIVERED]
    asked = script.asked[0]
    assert (asked.method, asked.path) == ("POST", "/services/oauth2/token")
    form = {name: values[0] for name, values in parse_qs(asked.content.decode()).items()}
    assert form == {"grant_type": "client_credentials", "client_id": "local-client", "client_secret": KEY}
    assert "authorization" not in asked.headers
    assert [each.headers["authorization"] for each in script.asked[3:]] == ["Bearer 00Dnew"] * 6


@pytest.mark.parametrize("expired", EXPIRED)
def test_a_given_token_that_has_ended_is_for_a_person(expired: Canned, run: FakeRunContext) -> None:
    with scripted_server(expired) as script, pytest.raises(RequestRefusedError, match="WINBACK_CRM_API_KEY") as refusal:
        salesforce(script.url).send(changes("ada"), run)
    assert (refusal.value.http_status, refusal.value.exit_code, len(script.asked)) == (401, 2, 1)


def test_a_renewed_token_that_is_refused_too_ends_the_run(run: FakeRunContext) -> None:
    with scripted_server(TOKEN, EXPIRED[0], TOKEN, EXPIRED[0]) as script, pytest.raises(RequestRefusedError):
        logged_in(script.url).send(changes("ada"), run)
    assert len(script.asked) == 4


def test_threads_that_meet_an_ended_token_renew_it_once(crm: LocalCrm) -> None:
    destination = logged_in(crm.url)
    destination.send(changes("ada"), FakeRunContext())
    wire(crm).tokens.clear()
    threads = [threading.Thread(target=destination.send, args=(changes(f"u{n}"), FakeRunContext())) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(crm.store.profiles()), wire(crm).tokens_given) == (5, 2)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Canned(400, {"error": "invalid_client_id", "error_description": "client identifier invalid"}), "invalid_client_id"),
        (Canned(401, {"error": "invalid_client"}), "invalid_client"),
        (Canned(400, {"error": "invalid_grant", "error_description": "no client credentials user enabled"}), "invalid_grant"),
        (Canned(404, b"<html>no such page</html>"), "http_404"),
        (Canned(400, {"error": f"the client {KEY}"}), "http_400"),
    ],
)  # fmt: skip
def test_credentials_that_are_refused_name_the_settings(said: Canned, words: str, run: FakeRunContext) -> None:
    with scripted_server(said) as script, pytest.raises(ContractError, match="WINBACK_CRM_CLIENT_ID") as refusal:
        logged_in(script.url).send(changes("ada"), run)
    assert f"refused an access token: {words}." in str(refusal.value)
    assert KEY not in f"{refusal.value} {CREDENTIALS}"


@pytest.mark.parametrize("said", [{}, [], {"access_token": ""}, {"access_token": "a\nb"}, {"access_token": 7}])
def test_a_token_of_unknown_shape_is_not_used(said: object, run: FakeRunContext) -> None:
    with scripted_server(Canned(200, said)) as script, pytest.raises(UnavailableError) as failure:
        logged_in(script.url).send(changes("ada"), run)
    assert (failure.value.code, len(script.asked)) == ("unknown_reply", 1)


def test_a_run_that_leaves_still_drops_its_job(crm: LocalCrm) -> None:
    with pytest.raises(DeadlineExceededError):
        logged_in(crm.url).send(changes("ada"), FakeRunContext(seconds_left=4))
    assert [job.state for job in wire(crm).jobs.values()] == ["Aborted"]


def test_the_doctor_examines_the_credentials(crm: LocalCrm, tmp_path: Path) -> None:
    examples = Path(__file__).parents[4] / "examples" / "salesforce"
    common: dict[str, Any] = {
        "crm": "salesforce",
        "crm_url": crm.url,
        "config": examples,
        "crm_client_id": "local-client",
    }
    right = examined(Settings(**common, crm_client_secret=KEY))
    assert [each.state for each in right] == ["ok", "ok", "ok"]
    (wrong,) = examined(Settings(**common, crm_client_secret="x"))
    assert (wrong.state, "invalid_client" in wrong.says) == ("failed", True)


def test_a_crm_without_client_credentials_refuses_them_at_start() -> None:
    with pytest.raises(ContractError, match="WINBACK_CRM_CLIENT_ID is set, but hubspot accepts only an API key"):
        connect(
            "hubspot", "http://127.0.0.1:9", CREDENTIALS, CrmFile(), MAPPING, allowed_hosts=(), budget=RetryBudget(1)
        )


@pytest.mark.parametrize(
    ("name", "value"), [("WINBACK_CRM_CLIENT_ID", "an-id"), ("WINBACK_CRM_CLIENT_SECRET", "a-secret")]
)
def test_an_id_without_its_secret_is_refused_at_start(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ContractError, match="must be set together with WINBACK_CRM_CLIENT_ID") as refusal:
        read_settings()
    assert "a-secret" not in str(refusal.value)


def test_a_refused_request_alone_is_sent_again_after_a_renewal(run: FakeRunContext) -> None:
    file_taken = (OPENED, Canned(201), refused(400, "INVALIDJOBSTATE"), COMPLETE, successes("ada"), NONE_FAILED)
    with scripted_server(TOKEN, EXPIRED[0], TOKEN, *file_taken) as script:
        assert logged_in(script.url).send(changes("ada"), run) == [DELIVERED]
    opened = [each.path for each in script.asked if each.path.endswith("/jobs/ingest")]
    assert opened == ["/services/data/v62.0/jobs/ingest"] * 2
