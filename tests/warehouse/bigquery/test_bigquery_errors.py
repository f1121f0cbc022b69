"""BigQuery's errors: the message a person reads, and the exit code of the job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from core.errors import ContractError, RetryableError, WinbackError
from tests.support.bigquery_emulator.process import Emulator
from tests.support.bigquery_environment import connection_to, with_raw_tables
from warehouse.bigquery.connection import Connection
from warehouse.bigquery.errors import REASONS, explain_dbt, explained
from warehouse.bigquery.warehouse import BigQueryWarehouse
from warehouse.tables import AUDITS

# Texts that Google's messages may quote and that must not appear in a log.
CANARIES = ("jane@example.com", "secret-value", "41999")
QUOTED = "User: jane@example.com, value: secret-value, row 41999."


@dataclass(frozen=True)
class Refusal:
    """Google's error, and the expected one. The last field: whether dbt passes on the message without the reason."""

    status: int
    reason: str
    message: str
    error: type[WinbackError]
    words: str
    is_told_by_dbt: bool = True

    def __str__(self) -> str:
        return f"{self.status}-{self.reason}"

    @property
    def as_fault(self) -> dict[str, Any]:
        return {"status": self.status, "reason": self.reason, "message": f"{self.message} {QUOTED}"}


REFUSALS = [
    Refusal(
        404,
        "notFound",
        "Not found: Dataset some-project:winback_raw was not found in location US.",
        ContractError,
        "A dataset or table is missing. `winback doctor` shows which to create, and how. (some-project:winback_raw)",
    ),
    Refusal(
        404,
        "notFound",
        "Not found: Table some-project:winback_marts.crm_profiles was not found in location US.",
        ContractError,
        "A dataset or table is missing. `winback doctor` shows which to create, and how. "
        "(some-project:winback_marts.crm_profiles)",
    ),
    Refusal(
        403,
        "accessDenied",
        "Access Denied: Table some-project:winback_raw.users: User does not have permission bigquery.tables.getData.",
        ContractError,
        "BigQuery refused because a permission is missing. `winback doctor` shows what to grant. "
        "(some-project:winback_raw.users, bigquery.tables.getData)",
    ),
    Refusal(
        403,
        "quotaExceeded",
        "Quota exceeded: Your project exceeded quota for load jobs.",
        RetryableError,
        "A BigQuery quota is used up. Wait until it is renewed or raise it in the console, then run again.",
    ),
    Refusal(
        400,
        "bytesBilledLimitExceeded",
        "Query exceeded limit for bytes billed: 1099511627776. 2199023255552 or higher required.",
        ContractError,
        "A query would read more bytes than WINBACK_BIGQUERY_MAX_BYTES allows, so it was not run and not billed. "
        "If that amount is correct, raise the limit.",
    ),
    Refusal(
        403,
        "billingNotEnabled",
        "Access Denied: BigQuery BigQuery: Billing has not been enabled for this project.",
        ContractError,
        "Billing is not enabled for the project.",
        is_told_by_dbt=False,
    ),
    Refusal(
        400,
        "invalidQuery",
        "Unrecognized name: churn at [1:8].",
        ContractError,
        "BigQuery does not accept a query. Check that the tables fit this version of winback.",
        is_told_by_dbt=False,
    ),
    Refusal(
        418,
        "teapot",
        "Short and stout.",
        RetryableError,
        "BigQuery failed with an unknown error. Run `winback doctor` for details.",
        is_told_by_dbt=False,
    ),
]

ROW: dict[str, Any] = {c.name: {"string": "a", "int64": 1}.get(str(c.type), 0) for c in AUDITS.columns}

DOORS: dict[str, Callable[[BigQueryWarehouse], object]] = {
    "query": lambda w: w.query("select 1 as one"),
    "stream": lambda w: list(w.stream("select 1 as one", 10)),
    "schema": lambda w: w.schema("select 1 as one"),
    "append": lambda w: w.append(AUDITS, pa.Table.from_pylist([ROW], schema=AUDITS.schema)),
    "discard": lambda w: w.discard(AUDITS, audit_id="a"),
}


@pytest.fixture(scope="module")
def warehouse(running_emulator: Emulator) -> Iterator[BigQueryWarehouse]:
    with closing(with_raw_tables(running_emulator, "errors")) as warehouse:
        yield warehouse


def assert_no_canary(text: str) -> None:
    assert not [canary for canary in CANARIES if canary in text]


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
@pytest.mark.parametrize("door", DOORS)
def test_a_refusal_is_told_in_words_with_its_exit_code_at_every_door(
    warehouse: BigQueryWarehouse, emulator: Emulator, refusal: Refusal, door: str
) -> None:
    emulator.refuse(lambda _: True, refusal.as_fault, times=1_000)

    with pytest.raises(WinbackError) as raised:
        DOORS[door](warehouse)

    assert (type(raised.value), str(raised.value)) == (refusal.error, refusal.words)
    assert raised.value.exit_code == {RetryableError: 1, ContractError: 2}[refusal.error]
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__  # a traceback would quote the original


@pytest.mark.parametrize("refusal", [r for r in REFUSALS if r.is_told_by_dbt], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        "Database Error in model int_sessions (models/intermediate/int_sessions.sql)\n  {}\n  compiled code at x.sql",
        "{}",
    ],
)
def test_dbt_s_failure_gets_the_same_verdict(refusal: Refusal, shape: str) -> None:
    text = shape.format(f"{refusal.message} {QUOTED}")

    for found in (explain_dbt(None, [text]), explain_dbt(RuntimeError(text), [])):
        assert (type(found), str(found)) == (refusal.error, refusal.words)


def test_of_several_failures_of_dbt_the_one_that_no_retry_mends_is_told() -> None:
    quota, denied = "Quota exceeded: load jobs", "Access Denied: Project some-project"

    assert isinstance(explain_dbt(None, [quota, denied]), ContractError)
    assert isinstance(explain_dbt(None, [quota, "Got 1 result, configured to fail if != 0"]), RetryableError)


def test_what_dbt_says_of_the_data_is_not_taken_for_bigquery_s_words() -> None:
    assert explain_dbt(None, ["Got 3 results, configured to fail if != 0"]) is None


@pytest.mark.parametrize(
    ("raised", "error", "words"),
    [
        (
            auth.RefreshError(QUOTED),
            ContractError,
            "The Google credentials have expired or were revoked. Log in again.",
        ),
        (requests.ConnectionError(QUOTED), RetryableError, "BigQuery could not be reached"),
        (TimeoutError(QUOTED), RetryableError, "BigQuery could not be reached"),
        (api.ServiceUnavailable(QUOTED), RetryableError, "BigQuery could not be reached"),
        (
            api.RetryError(QUOTED, cause=requests.ConnectionError(QUOTED)),
            RetryableError,
            "BigQuery could not be reached",
        ),
        (api.RetryError(QUOTED, cause=api.Forbidden(QUOTED)), ContractError, "because a permission is missing"),
        (api.NotFound(QUOTED), ContractError, "A dataset or table is missing"),
        (api.BadRequest(QUOTED), RetryableError, "an unknown error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_libraries_raise_is_told_without_what_it_quotes(
    raised: Exception, error: type[WinbackError], words: str
) -> None:
    with pytest.raises(error, match=words) as told, explained():
        raise raised
    assert_no_canary(str(told.value))


@pytest.mark.parametrize("reason", REASONS)
def test_a_reason_that_bigquery_gives_has_a_sentence_of_its_own(reason: str) -> None:
    with pytest.raises(REASONS[reason].error) as told, explained():
        raise api.BadRequest(QUOTED, errors=[{"reason": reason, "message": QUOTED}])
    assert str(told.value) == REASONS[reason].text


def test_an_error_of_our_own_passes_as_it_is() -> None:
    with pytest.raises(ValueError, match="ours"), explained():
        raise ValueError("ours")


def test_without_credentials_a_person_is_told_where_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)

    with pytest.raises(ContractError, match="gcloud auth application-default login"):
        BigQueryWarehouse(Connection("some-project", "winback", "US"))


def test_without_a_raw_dataset_there_is_nothing_to_open(emulator: Emulator) -> None:
    with pytest.raises(ContractError, match="A dataset or table is missing"):
        BigQueryWarehouse(connection_to(emulator, "nowhere", location=""))


@pytest.mark.parametrize("door", DOORS)
def test_a_bigquery_out_of_reach_is_told_within_our_patience(emulator_that_is_down: Emulator, door: str) -> None:
    with closing(BigQueryWarehouse(connection_to(emulator_that_is_down, "winback"))) as warehouse:
        with pytest.raises(RetryableError, match="BigQuery could not be reached") as told:
            DOORS[door](warehouse)
        assert told.value.exit_code == 1


@pytest.fixture(scope="module")
def emulator_that_is_down(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("down")) as emulator:
        emulator.kill()
        yield emulator
