"""Settings and funnel: all mistakes are reported at once, by name, and without secrets."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import certifi
import pytest
import yaml
from pydantic import SecretStr

from core.errors import ContractError
from core.settings import Settings, read_settings
from jobs.transform.funnel import Funnel, load_funnel

CANARY = "kEy-7f3a9c51"
AMBIGUOUS = [
    "https://rest.braze.eu;evil.example",
    "https://rest.braze.eu,evil.example",
    "https://evil.example;.braze.eu",
    "https://rest.braze.eu%00.evil.example",
    "https://rest.braze.eu%2eevil.example",
    "https://rest.braze.eu\x01",
    "https://rest.braze.eu/\x7f",
    "https://rest.braze.eu/../admin",
    "https://rest.braze.eu/a/../b",
    "https://rest.braze.eu/a/./b",
    "https://rest.braze.eu/..",
    "https://rest.braze.eu/%2e%2e/b",
    "https://rest.braze.eu/a%00b",
    "https://rest.braze.eu/a;b",
    "https://rest.braze.eu/a//b",
    "https://rest.braze.eu//evil.example",
    "https://rest.braze.eu\\@evil.example",
    "https://evil.example\\.braze.eu",
    "https:\\\\rest.braze.eu",
    "https:/rest.braze.eu",
    "https:///rest.braze.eu",
    "https://@rest.braze.eu",
    "https://:@rest.braze.eu",
    "https://user:word@rest.braze.eu",
    "https://rest.braze.eu?",
    "https://rest.braze.eu#",
    "https://rest.braze.eu/a?b",
    "https://rest.braze.eu/ ",
    " https://rest.braze.eu",
    "https://rest. braze.eu",
    "https://rest.braze.eu\t",
    "https://rest.braze.eu:",
    "https://rest.braze.eu:0",
    "https://rest.braze.eu:00",
    "https://rest.braze.eu:65536",
    "https://rest.braze.eu:-1",
    "https://rest.braze.eu:+443",
    "https://rest.braze.eu:\u0664\u0664\u0663",
    "https://rest.braze.eu.",
    "https://rest..braze.eu",
    "https://.braze.eu",
    "https://-rest.braze.eu",
    "https://rest-.braze.eu",
    # Letters and full stops of other alphabets, some of which programs convert
    "https://rest.br\u0430ze.eu",
    "https://rest\u3002braze\u3002eu",
    "https://rest.braze\uff0eeu",
    "https://rest.braz\u0435.eu",
    "https://rest.braze.eu\u2044evil.example",
    "https://\u212aelvin.example",
    # Numbers that some programs read as an address of this machine
    "https://2130706433",
    "https://0x7f000001",
    "https://127.1",
    "https://0177.0.0.1",
    "https://127.0.0.1.1",
    "https://256.0.0.1",
    "https://[::1",
    "https://[::1%25lo]",
    "https://[127.0.0.1]",
    "https://[v1.a]",
    "https://" + "a" * 64 + ".example",
    "https://" + "a." * 127 + "example",
]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"WINBACK_{name.upper()}", raising=False)


def refusal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(f"WINBACK_{name}", value)
    with pytest.raises(ContractError) as told:
        read_settings()
    return str(told.value)


def test_without_any_setting_the_job_runs_on_a_laptop() -> None:
    found = read_settings()
    secrets = {name: getattr(found, name).get_secret_value() for name in ("crm_api_key", "crm_proxy")}
    assert found.model_dump() | secrets == {
        "warehouse": "duckdb:///var/winback.duckdb",
        "bigquery_location": "",
        "bigquery_max_bytes": 1 << 40,
        "bigquery_endpoint": "",
        "bigquery_storage_endpoint": "",
        "models": Path("var/models"),
        "registry": "",
        "config": Path("config"),
        "crm": "braze",
        "crm_url": "http://127.0.0.1:8765",
        "crm_hosts": "",
        "crm_api_key": "local-key",
        "crm_ca_file": "",
        "crm_proxy": "",
        "crm_client_id": "",
        "crm_client_secret": SecretStr(""),
        "safety_lag_seconds": 120,
        "catch_up_days": 30,
        "max_watermark_age_seconds": 7200,
        "lease_seconds": 900,
        "run_deadline_seconds": 2_700,
        "retry_budget_seconds": 120,
        "max_rejected_ratio": 0.5,
        "min_audience_ratio": 0.5,
        "dbt_target": Path("var/dbt"),
        "memory_limit": "2GB",
        "earliest_at": datetime(2000, 1, 1, tzinfo=UTC),
        "debug": False,
        "threads": 0,
        "shadow": False,
    }


def test_every_setting_is_read_from_a_variable_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "warehouse": "duckdb:////data/winback.duckdb",
        "bigquery_location": "EU",
        "bigquery_max_bytes": "1000000",
        "bigquery_endpoint": "https://bigquery-private.p.googleapis.com",
        "bigquery_storage_endpoint": "bigquerystorage-private.p.googleapis.com:443",
        "models": "/models",
        "registry": "https://mlflow.example/",
        "config": "/config",
        "crm": "hubspot",
        "crm_url": "https://rest.fra-01.braze.eu/",
        "crm_hosts": "proxy.example,.Internal.example",
        "crm_api_key": CANARY,
        "crm_ca_file": certifi.where(),
        "crm_proxy": f"http://winback:{CANARY}@proxy.example:3128",
        "crm_client_id": "3MVG9.an-id",
        "crm_client_secret": CANARY,
        "safety_lag_seconds": "0",
        "catch_up_days": "14",
        "max_watermark_age_seconds": "0",
        "lease_seconds": "600",
        "run_deadline_seconds": "60",
        "retry_budget_seconds": "1.5",
        "max_rejected_ratio": "1",
        "min_audience_ratio": "0",
        "dbt_target": "/target",
        "memory_limit": "1.5GB",
        "earliest_at": "1990-06-01",
        "debug": "1",
        "threads": "2",
        "shadow": "true",
    }
    assert set(environment) == set(Settings.model_fields)
    for name, value in environment.items():
        monkeypatch.setenv(f"WINBACK_{name.upper()}", value)
    found = read_settings()
    assert (found.crm, found.crm_url) == ("hubspot", "https://rest.fra-01.braze.eu")
    assert found.allowed_crm_hosts == ("proxy.example", ".internal.example")
    assert found.crm_api_key.get_secret_value() == CANARY
    assert (found.crm_ca_file, found.crm_proxy.get_secret_value()) == (
        certifi.where(),
        f"http://winback:{CANARY}@proxy.example:3128",
    )
    assert (found.crm_client_id, found.crm_client_secret.get_secret_value()) == ("3MVG9.an-id", CANARY)
    assert found.registry_uri == "https://mlflow.example"
    assert (found.duckdb_file, found.bigquery) == (Path("/data/winback.duckdb"), None)
    assert (found.bigquery_location, found.bigquery_max_bytes) == ("EU", 1_000_000)
    assert found.bigquery_endpoint == "https://bigquery-private.p.googleapis.com"
    assert found.bigquery_storage_endpoint == "bigquerystorage-private.p.googleapis.com:443"
    assert (found.run_deadline_seconds, found.retry_budget_seconds, found.threads) == (60, 1.5, 2)
    assert (found.safety_lag_seconds, found.max_rejected_ratio, found.memory_limit) == (0, 1.0, "1.5GB")
    assert found.earliest_at == datetime(1990, 6, 1, tzinfo=UTC)
    assert (found.models, found.config, found.dbt_target) == (Path("/models"), Path("/config"), Path("/target"))


def test_a_warehouse_in_bigquery_is_a_project_and_a_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINBACK_WAREHOUSE", "bigquery://example.com:some-project/winback")
    found = read_settings()
    assert (found.duckdb_file, found.bigquery) == (None, ("example.com:some-project", "winback"))


def test_every_wrong_setting_is_told_at_once_and_no_value_is(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "WAREHOUSE": f"postgres://{CANARY}",
        "CRM": CANARY,
        "CRM_URL": f"https://user:{CANARY}@rest.fra-01.braze.eu",
        "CRM_API_KEY": f"{CANARY}\n",
        "SAFETY_LAG_SECONDS": CANARY,
        "RUN_DEADLINE_SECONDS": "0",
        "RETRY_BUDGET_SECONDS": "-0.5",
        "MAX_REJECTED_RATIO": "1.01",
        "MEMORY_LIMIT": CANARY,
        "THREADS": "-1",
    }
    text = refusal(monkeypatch, **wrong)
    lines = text.splitlines()
    assert lines[0] == "Some settings cannot be used:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [f"WINBACK_{name}" for name in wrong]
    assert CANARY not in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WAREHOUSE", ""),
        ("WAREHOUSE", "duckdb:///"),
        ("WAREHOUSE", "duckdb://var/winback.duckdb"),
        ("WAREHOUSE", "bigquery://some-project"),
        ("WAREHOUSE", "bigquery://some-project/"),
        ("WAREHOUSE", "bigquery://some-project/with-hyphen"),
        ("WAREHOUSE", "bigquery://some-project/winback/more"),
        ("BIGQUERY_ENDPOINT", "http://bigquery.example.com"),
        ("BIGQUERY_LOCATION", "EU; drop"),
        ("BIGQUERY_MAX_BYTES", "0"),
        ("BIGQUERY_STORAGE_ENDPOINT", "localhost"),
        ("CRM", "pipedrive"),
        ("REGISTRY", "postgresql://host/db"),
        ("REGISTRY", "sqlite:///"),
        ("REGISTRY", "https://user:word@host"),
        ("REGISTRY", "https://"),
        ("REGISTRY", "http://host?key=1"),
        ("CRM_HOSTS", "https://proxy.example"),
        ("CRM_HOSTS", "proxy.example, other.example"),
        ("CRM_HOSTS", "proxy.example,"),
        ("CRM_URL", ""),
        ("CRM_URL", "rest.fra-01.braze.eu"),
        ("CRM_URL", "https://"),
        ("CRM_URL", "https://[::1"),
        ("CRM_URL", "https://host:port"),
        ("CRM_URL", "https://host:99999"),
        ("CRM_URL", "https://host:0"),
        ("CRM_URL", "https://host\n"),
        ("CRM_URL", "https://host?key=1"),
        ("CRM_URL", "https://host#part"),
        ("CRM_URL", "https://user@host"),
        ("CRM_URL", "ftp://host"),
        # http: only to this machine
        ("CRM_URL", "http://rest.fra-01.braze.eu"),
        ("CRM_URL", "http://localhost.example.org"),
        ("CRM_URL", "http://127.0.0.1.example.org"),
        ("CRM_URL", "http://127.0.0.1@example.org"),
        ("CRM_URL", "http://0.0.0.0"),
        # Forms that programs read differently
        *[("CRM_URL", url) for url in AMBIGUOUS],
        ("CRM_HOSTS", "."),
        ("CRM_HOSTS", "..example.org"),
        ("CRM_HOSTS", "-.example.org"),
        ("CRM_HOSTS", "a..b"),
        ("REGISTRY", "https://host;evil.example"),
        ("REGISTRY", "https://host/a/../b"),
        ("REGISTRY", "https://host%00.example"),
        ("BIGQUERY_ENDPOINT", "https://bigquery.example.com,evil.example"),
        ("CRM_CA_FILE", "no-such-file.pem"),
        ("CRM_CA_FILE", "."),
        ("CRM_CA_FILE", __file__),
        ("CRM_PROXY", "proxy.example:3128"),
        ("CRM_PROXY", "https://proxy.example:3128"),
        ("CRM_PROXY", "socks5://proxy.example:1080"),
        ("CRM_PROXY", "http://"),
        ("CRM_PROXY", f"http://{CANARY}@proxy.example@evil.example"),
        ("CRM_PROXY", "http://proxy.example:0"),
        ("CRM_PROXY", "http://proxy.example:3128?a=1"),
        ("CRM_API_KEY", ""),
        ("CRM_API_KEY", "key\n"),
        ("CRM_API_KEY", " key"),
        ("CRM_API_KEY", "key and more"),
        ("CRM_API_KEY", "kéy"),
        ("SAFETY_LAG_SECONDS", "-1"),
        ("SAFETY_LAG_SECONDS", "86401"),
        ("SAFETY_LAG_SECONDS", "1.5"),
        ("RUN_DEADLINE_SECONDS", ""),
        ("RETRY_BUDGET_SECONDS", "inf"),
        ("RETRY_BUDGET_SECONDS", "nan"),
        ("MAX_REJECTED_RATIO", "nan"),
        ("MAX_REJECTED_RATIO", "-0.1"),
        ("MIN_AUDIENCE_RATIO", "1.1"),
        ("MIN_AUDIENCE_RATIO", "nan"),
        ("LEASE_SECONDS", "-1"),
        ("MEMORY_LIMIT", "2"),
        ("MEMORY_LIMIT", "half of it"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    text = refusal(monkeypatch, **{name: value})
    assert text.count("WINBACK_") == 1
    assert f"WINBACK_{name}: " in text


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8765",
        "http://127.0.0.1",
        "http://[::1]:8765",
        "https://rest.fra-01.braze.eu",
        "https://rest.fra-01.braze.eu:8443",
        "https://proxy.example.org/braze",
        "https://proxy.example.org/braze/v1.2",
        "HTTPS://Proxy.Example.org",
        "https://10.0.0.7:8443",
        "https://[2001:db8::1]:8443",
        "https://xn--bcher-kva.example",
        "https://a_service.example",
    ],
)
def test_https_anywhere_and_http_on_this_machine_are_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("WINBACK_CRM_URL", url)
    scheme, rest = url.split(":", maxsplit=1)
    assert read_settings().crm_url == f"{scheme.lower()}:{rest}"  # other code looks for https:// at its beginning


def test_the_key_is_in_no_text_made_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINBACK_CRM_API_KEY", CANARY)
    monkeypatch.setenv("WINBACK_CRM_PROXY", f"http://user:{CANARY}@proxy.example:3128")
    found = read_settings()
    assert CANARY not in f"{found} {found!r} {found.model_dump()} {found.model_dump_json()}"


# The funnel


def funnel_file(tmp_path: Path, **changes: Any) -> Path:
    content = {"completion_events": ["submitted"], "steps": ["start", "end"], "event_kinds": {"input": ["saved"]}}
    path = tmp_path / "funnel.yml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def test_a_funnel_needs_no_more_than_what_counts_as_finished(tmp_path: Path) -> None:
    path = tmp_path / "funnel.yml"
    path.write_text("completion_events: [paid]")
    assert load_funnel(path).as_vars() == {
        "completion_events": ["paid"],
        "abandonment_events": [],
        "closing_events": [],
        "session_gap_minutes": 30,
        "max_session_hours": 24,
        "max_lateness_days": 3,
        "label_window_days": 14,
        "feature_history_days": 90,
        "training_history_days": 730,
        "pause_seconds": 120,
        "steps": [],
        "event_kinds": {},
    }


@pytest.mark.parametrize("folder", ["config", "examples/loan_applications"])
def test_the_funnels_that_ship_can_be_used(folder: str) -> None:
    found = load_funnel(Path(__file__).parents[2] / folder / "funnel.yml")
    assert isinstance(found, Funnel)
    assert found.completion_events


@pytest.mark.parametrize(
    "name",
    [
        "submitted",
        "Bought: 2 teas, naïve, {{ fast }} 100 %",
        "x" * 200,
        "it's done",
        'say "done"',
        "done\\",
        "yes",
    ],
)
def test_an_event_may_be_called_almost_anything(tmp_path: Path, name: str) -> None:
    assert load_funnel(funnel_file(tmp_path, completion_events=[name])).completion_events == [name]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"completion_events": []}, "completion_events"),
        ({"completion_events": "submitted"}, "completion_events"),
        ({"abandonment_events": ["submitted"]}, "given as more than one outcome: submitted"),
        ({"closing_events": ["left", "submitted"], "abandonment_events": ["left"]}, "one outcome: left, submitted"),
        ({"completion_events": ["  "]}, "completion_events.0"),
        ({"completion_events": ["a\x7f"]}, "completion_events.0"),
        ({"completion_events": ["a", "a"]}, "given as more than one outcome: a"),
        ({"completion_events": ["do\nne"]}, "completion_events.0"),
        ({"completion_events": ["done\n"]}, "completion_events.0"),
        ({"completion_events": ["x" * 1_001]}, "completion_events.0"),
        ({"completion_events": [" a"]}, "completion_events.0"),
        ({"completion_events": [""]}, "completion_events.0"),
        ({"completion_events": [7]}, "completion_events.0"),
        ({"steps": ["start", "\t"]}, "steps.1"),
        ({"event_kinds": {"shouting": ["x"]}}, "event_kinds.shouting"),
        ({"event_kinds": {"input": [""]}}, "event_kinds.input.0"),
        ({"session_gap_minutes": 0}, "session_gap_minutes"),
        ({"session_gap_minutes": 1441}, "session_gap_minutes"),
        ({"max_lateness_days": 31}, "max_lateness_days"),
        ({"max_session_hours": 169}, "max_session_hours"),
        ({"max_session_hours": 1, "session_gap_minutes": 61}, "max_session_hours must be at least session_gap_minutes"),
        ({"label_window_days": 1.5}, "label_window_days"),
        (
            {"label_window_days": 60, "training_history_days": 60},
            "line 10, training_history_days: must be more than label_window_days, which is 60",
        ),
        (
            {"training_history_days": 30, "label_window_days": 90},
            "training_history_days: must be more than label_window_days, which is 90",
        ),
        ({"feature_history_days": 0}, "feature_history_days"),
        ({"pause_seconds": 0}, "pause_seconds"),
        ({"sesion_gap_minutes": 30}, "sesion_gap_minutes"),
    ],
)
def test_a_wrong_funnel_is_refused_with_its_file_and_the_field(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ContractError) as told:
        load_funnel(funnel_file(tmp_path, **changes))
    assert "funnel.yml is not a valid funnel file" in str(told.value)
    assert named in str(told.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"completion_events: [", b"completion_events: [\xe4]"])
def test_a_file_that_is_no_funnel_at_all_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "funnel.yml"
    path.write_bytes(content)
    with pytest.raises(ContractError, match=r"funnel\.yml is not a valid funnel file"):
        load_funnel(path)


def test_a_missing_funnel_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"funnel\.yml"):
        load_funnel(tmp_path / "funnel.yml")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("WINBACK_CRM_URI", "; did you mean WINBACK_CRM_URL?"), ("WINBACK_FOO", ""), ("WINBACK_XYZ", "")],
)
def test_a_misspelt_variable_is_named_with_the_one_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "https://secret.example")
    with pytest.raises(ContractError) as refusal:
        read_settings()
    assert str(refusal.value) == f"Some settings cannot be used:\n  {name}: this setting does not exist{meant}"
