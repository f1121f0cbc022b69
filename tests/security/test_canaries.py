"""Personal data and the key never appear in any output and are never sent to another host, whatever the CRM returns."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from core.errors import ContractError
from core.settings import read_settings
from crm_sync.destination import Destination
from crm_sync.destinations.factory import ADAPTERS, connect, load_options
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.field_mapping import FieldMapping, load_fields
from crm_sync.sync import sync
from jobs.cli import main as cli
from jobs.context import open_context
from jobs.models.train import train
from jobs.upkeep.backfill import backfill
from tests.support.crm.local_api import Canned, Script, scripted_server
from tests.support.environment import CONFIG, HISTORY_UNTIL, NOW, at, load_app, settings_in, small_app
from tests.support.secrets_canary import EMAIL, KEY, NAME, QUOTED_PII, USER, VALUE, canaries_in, files_of
from tests.support.sync.builders import GRANTED, MAPPING, log_of, marts_in, pending, plan
from warehouse.duckdb.warehouse import DuckDBWarehouse

ROOT = Path(__file__).parents[2]
SALESFORCE_FIELDS = load_fields(ROOT / "examples/salesforce/crm_fields.yml")
PAGE = f"<html><title>502 {USER}</title><body>{QUOTED_PII}</body></html>".encode()
JOB = "7505fEXAMPLE00012A"
HOURS = 24


# Each CRM's replies for a row and for a batch


def klaviyo(status: str = "complete", failed: int = 1) -> Canned:
    counts = {"total_count": 1, "completed_count": 1 - failed, "failed_count": failed}
    job = {"type": "profile-bulk-import-job", "id": "job", "attributes": {"status": status, **counts}}
    return Canned(202, {"data": job})


def salesforce(state: str, **more: Any) -> tuple[Canned, ...]:
    opened = Canned(200, {"id": JOB, "state": "Open"})
    return opened, Canned(201), Canned(200, {"state": "UploadComplete"}), Canned(200, {"state": state, **more})


def csv(*lines: str) -> Canned:
    return Canned(200, "\n".join(lines).encode(), {"Content-Type": "text/csv"})


_QUOTED = QUOTED_PII.replace('"', '""')
_ERROR = {
    "status": "error",
    "category": "VALIDATION_ERROR",
    "message": QUOTED_PII,
    "errors": [{"message": QUOTED_PII, "code": QUOTED_PII}],
}
_TRACED = {"context": {"objectWriteTraceId": ["0"], "ids": [USER]}}
_IMPORT_ERROR = {
    "code": QUOTED_PII,
    "title": QUOTED_PII,
    "detail": QUOTED_PII,
    "source": {"pointer": "/data/attributes/profiles/data/0"},
    "original_payload": {"external_id": USER, "email": EMAIL},
}
SAID: dict[str, dict[str, tuple[Canned, ...]]] = {
    "braze": {
        "a row": (
            Canned(
                201,
                {"message": "success", "errors": [{"type": QUOTED_PII, "input_array": "attributes", "index": 0}]},
            ),
        ),
        "a batch": (Canned(400, {"message": QUOTED_PII}),),
        "another shape": (Canned(201, {"message": QUOTED_PII, "errors": [QUOTED_PII]}),),
    },
    "hubspot": {
        "a row": (Canned(207, {"status": "COMPLETE", "results": [], "errors": [_ERROR | _TRACED]}),),
        "a row, by id": (Canned(207, {"status": "COMPLETE", "results": [], "errors": [_ERROR]}),),
        "a batch": (Canned(400, _ERROR),),
        "another shape": (Canned(200, {"status": QUOTED_PII, "results": QUOTED_PII}),),
    },
    "klaviyo": {
        "a row": (
            klaviyo(),
            Canned(200, {"data": [{"type": "import-error", "id": QUOTED_PII, "attributes": _IMPORT_ERROR}]}),
        ),
        "a batch": (Canned(400, {"errors": [{"code": QUOTED_PII, "title": QUOTED_PII, "detail": QUOTED_PII}]}),),
        "another shape": (Canned(202, {"data": {"id": QUOTED_PII, "attributes": {"status": QUOTED_PII}}}),),
        "an error that is refused": (klaviyo(), Canned(400, {"errors": [{"detail": QUOTED_PII}]})),
    },
    "salesforce": {
        "a row": (
            *salesforce("JobComplete"),
            csv('"sf__Id","sf__Created","Winback_User_Id__c"'),
            csv('"sf__Id","sf__Error","Winback_User_Id__c"', f'"","INVALID_FIELD:{_QUOTED}:--","{USER}"'),
        ),
        "a batch": salesforce("Failed", errorMessage=f"InvalidBatch : {QUOTED_PII}"),
        "a job that is not opened": (Canned(400, [{"errorCode": QUOTED_PII, "message": QUOTED_PII}]),),
        "a file of another shape": (*salesforce("JobComplete"), csv(_QUOTED, _QUOTED, f"{USER},")),
        "another state": salesforce(QUOTED_PII),
    },
}
OF_ALL = {
    "no permission": (Canned(401, {"message": QUOTED_PII}),),
    "forbidden": (Canned(403, {"message": QUOTED_PII, "errors": [{"detail": QUOTED_PII}]}),),
    "nothing there": (Canned(404, {"message": QUOTED_PII}),),
    "too many": (Canned(429, {"message": QUOTED_PII}, {"Retry-After": "9999"}),),
    "too many, says a page": (Canned(429, PAGE, {"Retry-After": QUOTED_PII.replace('"', "")}),),
    "a gateway's page": (Canned(502, PAGE),),
    "a page that is not an error": (Canned(200, PAGE),),
    "a redirect": (Canned(302, PAGE, {"Location": f"http://127.0.0.1:9/{USER}?key={KEY}&of={EMAIL}"}),),
    "cut off": (Canned(200, PAGE, {"Content-Length": "100000"}),),
    "unknown": (Canned(418, PAGE),),
}
CASES = [(name, what, replies) for name, own in SAID.items() for what, replies in (own | OF_ALL).items()]


def mapping_of(name: str) -> FieldMapping:
    return SALESFORCE_FIELDS if name == "salesforce" else MAPPING


def destination(name: str, url: str) -> Destination:
    options = load_options(CONFIG / "crm.yml")
    return connect(name, url, KEY, options, mapping_of(name), allowed_hosts=(), budget=RetryBudget(5.0))


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    # The rest of a reply that was cut off is waited for in real time.
    monkeypatch.setattr("crm_sync.destinations.http.transport.TIMEOUT_SECONDS", (5.0, 0.3))


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    with marts_in(tmp_path) as context:
        yield context


@pytest.mark.parametrize(("name", "what", "replies"), CASES, ids=[f"{name}: {what}" for name, what, _ in CASES])
def test_of_what_a_crm_quotes_nothing_is_kept(  # noqa: PLR0917 - fixtures
    name: str,
    what: str,
    replies: tuple[Canned, ...],
    warehouse: DuckDBWarehouse,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    pending(warehouse, USER, churn_reasons=VALUE, **GRANTED)
    with scripted_server(*replies) as script, closing(destination(name, script.url)) as crm:
        counts, stopped = sync(
            warehouse, crm, mapping_of(name), plan(warehouse, max_rejected_ratio=1.0), log=log_of(warehouse)
        )
        shown = repr(crm)
    assert counts.delivered == 0
    assert script.asked[0].headers["authorization"].endswith(KEY)
    assert what not in {"a row", "a row, by id", "a batch"} or counts.rejected == 1
    logged = warehouse.query("select * exclude (user_id, desired_hash, churn_reasons) from ops.deliveries").to_pylist()
    streams = capfd.readouterr()
    texts = {
        "the log of deliveries": repr(logged),
        "the counts": repr(counts),
        "why it stopped": "".join(traceback.format_exception(stopped)) + repr(stopped and vars(stopped)),
        "the destination": shown,
        "the logs": caplog.text,
        "the streams": streams.out + streams.err,
    }
    assert canaries_in(texts) == []


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_key_that_is_redirected_goes_nowhere_else(name: str, warehouse: DuckDBWarehouse) -> None:
    pending(warehouse, USER, **GRANTED)
    with scripted_server(Canned(200, {})) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            there = Canned(
                status, {}, {"Location": f"{elsewhere.url}/{USER}", "Link": f'<{elsewhere.url}/>; rel="next"'}
            )
            with scripted_server(there) as script, closing(destination(name, script.url)) as crm:
                _, stopped = sync(warehouse, crm, mapping_of(name), plan(warehouse), log=log_of(warehouse))
                crm.examine(mapping_of(name).kinds, plan(warehouse).run) if name != "salesforce" else None
            assert isinstance(stopped, ContractError)
            assert len(script.asked) >= 1
    assert elsewhere.asked == []


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize(
    "url",
    [
        f"https://{NAME}.example",
        f"https://rest.braze.com.{NAME}.example",
        f"https://{NAME}-a.klaviyo.com.example",
        f"https://evil{NAME}hubapi.com",
    ],
)
def test_a_host_that_is_not_the_crm_s_is_refused_and_not_named(name: str, url: str) -> None:
    with pytest.raises(ContractError) as refusal:
        destination(name, url)
    assert canaries_in({"the error": str(refusal.value)}) == []
    assert "WINBACK_CRM_HOSTS" in str(refusal.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"WINBACK_CRM_URL": f"http://{NAME}.example"},
        {"WINBACK_CRM_URL": f"https://{NAME}:{KEY}@rest.braze.eu"},
        {"WINBACK_CRM_URL": f"https://rest.braze.eu/?key={KEY}"},
        {"WINBACK_CRM_URL": f"ftp://{EMAIL}"},
        {"WINBACK_CRM_URL": f"https://[{KEY}"},
        {"WINBACK_CRM_API_KEY": f"{KEY}\n"},
        {"WINBACK_CRM_API_KEY": f"Bearer {KEY}"},
        {"WINBACK_CRM_HOSTS": f"{EMAIL} {KEY}"},
        {"WINBACK_CRM": KEY},
        {"WINBACK_WAREHOUSE": f"postgres://{NAME}:{KEY}@host/db"},
        {"WINBACK_THREADS": KEY},
        {"WINBACK_MEMORY_LIMIT": KEY},
        {"WINBACK_BIGQUERY_ENDPOINT": f"https://{KEY}@host"},
    ],
)
def test_a_setting_that_cannot_be_used_is_named_without_its_value(
    changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ContractError) as refusal:
        read_settings()
    assert next(iter(changes)) in str(refusal.value)
    assert canaries_in({"the error": "".join(traceback.format_exception(refusal.value))}) == []


def test_what_a_run_is_made_of_shows_no_key(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, crm_api_key=KEY)
    DuckDBWarehouse(tmp_path / "winback.duckdb").close()
    with open_context(settings) as context:
        texts = {"settings": f"{settings!r} {settings}", "house": repr(context), "json": settings.model_dump_json()}
    assert canaries_in(texts) == []


@pytest.mark.parametrize(("debug", "is_shown"), [("", False), ("0", False), ("1", True)])
def test_an_unexpected_error_says_where_and_not_what(
    debug: str, is_shown: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError(QUOTED_PII)

    if debug:
        monkeypatch.setenv("WINBACK_DEBUG", debug)
    monkeypatch.setattr("jobs.doctor.run.doctor", fail)
    monkeypatch.setattr(sys, "argv", ["winback", "doctor"])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    streams = capfd.readouterr()
    assert leaving.value.code == 1
    assert "Unexpected ValueError at" in streams.err
    assert (bool(canaries_in({"": streams.out + streams.err})), "Traceback" in streams.err) == (is_shown, is_shown)


# The command line in a separate process


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world in which the canary has just left unfinished. Each test continues where the previous one ended."""
    folder = tmp_path_factory.mktemp("canaries")
    settings = settings_in(folder)
    load_app(small_app(count_users=1_500), folder / "app", settings)
    with open_context(settings, now=lambda: NOW) as context:
        backfill(context, HISTORY_UNTIL)
        train(context)
        execute = context.warehouse.connection.execute  # type: ignore[attr-defined]
        # The canary replaces a user with consent who comes and leaves unfinished.
        sql = """
            select user_id from raw.app_events
            where user_id in (select user_id from raw.users where marketing_consent)
            group by user_id
            having
                min(loaded_at) >= $since and min(occurred_at) < $closed
                and not bool_or(event_name in ('filing_submitted', 'filing_deleted', 'filing_rejected'))
            order by count(*) desc limit 1
        """
        moments = {"since": HISTORY_UNTIL, "closed": at(HOURS / 2)}
        naive = {name: moment.replace(tzinfo=None) for name, moment in moments.items()}
        ((user,),) = execute(sql, naive).fetchall()
        for table in ("raw.app_events", "raw.users"):
            execute(f"update {table} set user_id = ? where user_id = ?", [USER, user])
    return folder


def winback(folder: Path, script: Script, *arguments: str, **changes: str) -> dict[str, str]:
    """Run a command. Returns its output and every file it left, by name."""
    environment = {
        "PATH": "",
        "WINBACK_WAREHOUSE": f"duckdb:///{folder / 'winback.duckdb'}",
        "WINBACK_MODELS": str(folder / "models"),
        "WINBACK_REGISTRY": "none",
        "WINBACK_DBT_TARGET": str(folder / "dbt"),
        "WINBACK_CRM_URL": script.url,
        "WINBACK_CRM_API_KEY": KEY,
        "WINBACK_RETRY_BUDGET_SECONDS": "0.1",
        "WINBACK_MAX_REJECTED_RATIO": "1",
        **changes,
    }
    command = [sys.executable, "-m", "jobs", *arguments]
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
    return {"stdout": done.stdout, "stderr": done.stderr, "code": str(done.returncode)} | files_of(folder)


def test_the_command_line_tells_of_nobody(history: Path) -> None:
    with scripted_server(Canned(200, {})) as elsewhere:
        redirect = Canned(302, PAGE, {"Location": f"{elsewhere.url}/{USER}?{KEY}"})
        with scripted_server(redirect) as script:
            redirected = winback(history, script, "run", "--until", at(HOURS).isoformat(), "--json")
        # Some users are refused one by one. If the CRM accepted no user, the requests would be at fault.
        refusal, taken = Canned(400, {"message": QUOTED_PII}), Canned(201, {"message": "success"})
        with scripted_server(*[refusal] * 12, taken) as script:
            refused = winback(history, script, "run", "--until", at(HOURS).isoformat())
            told = [asked for asked in script.asked if USER.encode() in asked.content]
            letters = winback(history, script, "dead-letters", "--json")
            doctor = winback(history, script, "doctor", "--json")
        assert elsewhere.asked == []
    assert told, "the canary is among those who are sent"
    assert [each["code"] for each in (redirected, refused, letters)] == ["2", "0", "0"]
    assert '"rejected_code": "http_400"' in letters["stdout"]
    for texts in (redirected, refused, letters, doctor):
        assert canaries_in(texts) == []


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    (tmp_path / f"{USER}.log").write_text("")
    (tmp_path / "a.log").write_text(EMAIL.upper().replace("+", "%2B").replace("@", "%40"))
    (tmp_path / "winback.duckdb").write_text(KEY)
    assert {each.partition(" in ")[0] for each in canaries_in(files_of(tmp_path))} >= {USER, EMAIL, NAME}
    assert canaries_in({"": "no personal data"}) == []
