"""Settings: a value that is absurd, or that programs read in different ways, is refused by its name, with the valid form."""

from __future__ import annotations

import pytest

from core.errors import ContractError
from core.settings import Settings, read_settings

HUGE = "9" * 30
REFUSED = {
    "MEMORY_LIMIT": ["1MB", "99MB", "0.5GB", "999999999GB", "9" * 99 + "GB", "1TB", "2gb"],
    # DuckDB does not read these as a file.
    "WAREHOUSE": [f"duckdb:///{path}" for path in (":memory:", "md:db", "s3://b/c", ".", "a/..", "a/", "/", " ")],
    "CRM_HOSTS": ["*", ".com", "a:443", "::1", "[::1", "\u0430.example", "a" * 64, "1.2.3", "a,,b", "a, b", "a/b"],
    "CRM_PROXY": [f"http://{proxy}" for proxy in ("proxy:1/a", "@proxy:1", "user:a\x01@proxy:1", "us er:a@proxy")],
    "CRM_API_KEY": ['"key"', "'key'", "k" * 8_193],
    "CRM_CLIENT_ID": ["an id", "\u0456d", '"id"', "i" * 8_193],
    "BIGQUERY_STORAGE_ENDPOINT": ["a", "a:0", "a:99999", "-:1", "https://a:1", "a:1/b", "u@a:1"],
    "BIGQUERY_LOCATION": ["-", "EU ", "e" * 64],
    "EARLIEST_AT": ["soon", "", "2100-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"],
    # These would break the arithmetic of dates, of threads or of BigQuery.
    "BIGQUERY_MAX_BYTES": [HUGE, str(1 << 63)],
    "MAX_WATERMARK_AGE_SECONDS": [HUGE, "31536001"],
    "LEASE_SECONDS": [HUGE, "86401"],
    "RUN_DEADLINE_SECONDS": [HUGE, "86401"],
    "RETRY_BUDGET_SECONDS": ["1e300", "86400.5"],
    "THREADS": [HUGE, "1025"],
    "CATCH_UP_DAYS": [HUGE, "366"],
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"WINBACK_{name.upper()}", raising=False)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in REFUSED.items() for value in values])
def test_a_setting_that_cannot_be_meant_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"WINBACK_{name}", value)
    with pytest.raises(ContractError) as refusal:
        read_settings()
    first, line = str(refusal.value).splitlines()
    assert first == "Some settings cannot be used:"
    assert line.startswith(f"  WINBACK_{name}: ")
    assert (refusal.value.exit_code, "pattern" in line) == (2, False)


@pytest.mark.parametrize(
    "name", [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]
)
@pytest.mark.parametrize("number", [10**17, -(10**17)])
def test_every_number_has_bounds_on_either_side(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    # Only BigQuery's bytes may be this large.
    monkeypatch.setenv(f"WINBACK_{name.upper()}", str(number * (1_000 if name == "bigquery_max_bytes" else 1)))
    with pytest.raises(ContractError, match=f"WINBACK_{name.upper()}: must be "):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "CRM_HOSTS",
            "a, b",
            "must be hosts with commas between and no blanks, for instance proxy.example,.internal.example",
        ),
        (
            "BIGQUERY_ENDPOINT",
            "x",
            "must be a scheme and a host, for instance https://bigquery-private.p.googleapis.com",
        ),
        ("MEMORY_LIMIT", "1MB", "must be a size such as 500MB or 2GB, from 100MB on"),
        ("EARLIEST_AT", "9999-12-31", "must be before 2100: earlier times are rejected"),
        ("LEASE_SECONDS", "86401", "must be 86400 or less"),
        ("THREADS", "-1", "must be 0 or more"),
        ("RETRY_BUDGET_SECONDS", "0", "must be more than 0.0"),
        ("THREADS", "many", "must be a whole number"),
        ("DEBUG", "maybe", "must be true or false"),
        ("CRM", "pipedrive", "must be one of 'braze', 'hubspot', 'klaviyo' or 'salesforce'"),
    ],
)
def test_what_a_setting_must_be_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(f"WINBACK_{name}", value)
    with pytest.raises(ContractError) as refusal:
        read_settings()
    assert str(refusal.value) == f"Some settings cannot be used:\n  WINBACK_{name}: {sentence}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CRM_HOSTS", "proxy,10.0.0.7,[2001:db8::1],.internal.example"),
        ("BIGQUERY_STORAGE_ENDPOINT", "[::1]:9050"),
        ("BIGQUERY_LOCATION", "europe-west3"),
        ("MEMORY_LIMIT", "100MB"),
        ("MEMORY_LIMIT", "1.25GB"),
        ("EARLIEST_AT", "0001-01-02"),
        ("EARLIEST_AT", "2000-01-01T00:00:00+02:00"),
        ("WAREHOUSE", "duckdb:///../a folder/x?y.duckdb"),
        ("CRM_PROXY", "http://us%40er:wo%3Ard@[2001:db8::1]:3128/"),
        ("CRM_PROXY", "http://proxy.example"),
    ],
)
def test_an_odd_setting_that_is_clear_is_taken(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"WINBACK_{name}", value)
    assert read_settings()


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("CRM_URL", "HTTPS://Rest.FRA-01.braze.eu/", "https://Rest.FRA-01.braze.eu"),
        ("CRM_URL", "Http://LocalHost:8765", "http://LocalHost:8765"),
        ("BIGQUERY_ENDPOINT", "HTTP://127.0.0.1:9050/", "http://127.0.0.1:9050"),
    ],
)
def test_an_address_begins_with_its_scheme_in_small_letters(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, read: str
) -> None:
    """Code that checks for a remote or local address looks at its beginning."""
    monkeypatch.setenv(f"WINBACK_{name}", value)
    assert getattr(read_settings(), name.lower()) == read


def test_a_host_by_its_number_is_allowed_without_its_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINBACK_CRM_HOSTS", "[2001:DB8::1],A.example")
    assert read_settings().allowed_crm_hosts == ("2001:db8::1", "a.example")
