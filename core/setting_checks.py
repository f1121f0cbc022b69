"""Validators of the settings.

Each one returns the value, or raises a ValueError whose one sentence does not quote the value, which may be a secret.
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime

from pydantic import SecretStr, ValidationInfo
from pydantic_core import ErrorDetails

from core.address import address_of

MAX_KEY_LENGTH = 8_192  # servers accept 8 KiB of headers
MIN_MEMORY_MB, MAX_MEMORY_MB = 100, 100_000_000  # DuckDB needs some MB to open a file; 100 TB
LAST_YEAR = 2100  # a later bound would reject every real time

# A project's id, and the prefix of the datasets (`_raw` and others are appended): https://cloud.google.com/bigquery/docs/datasets
BIGQUERY = re.compile(r"bigquery://(?P<project>[a-z][a-z0-9.:-]*[a-z0-9])/(?P<prefix>[A-Za-z_][A-Za-z0-9_]{0,199})")
_SENTENCES = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be one of {expected}",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number of at most 18 digits",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
}
_PROXY_USER = re.compile(r"(?<=^http://)[^\s@/?#\\\x00-\x1f\x7f]+@")


def sentence(error: ErrorDetails) -> str:
    """Return what the setting must be, without its value."""
    words = _SENTENCES.get(error["type"])
    return words.format(**error.get("ctx", {})) if words else error["msg"].removeprefix("Value error, ")


def crm_url(url: str) -> str:
    """Check the address that the key is sent to."""
    return _https(url, "https://rest.fra-01.braze.eu")


def bigquery_endpoint(url: str) -> str:
    """Check an alternative address of BigQuery; it may be empty."""
    return _https(url, "https://bigquery-private.p.googleapis.com") if url else ""


def _https(url: str, example: str) -> str:
    address = address_of(url)
    if address is None:
        raise ValueError(f"must be a scheme and a host, for instance {example}")
    if address.scheme != "https" and not address.is_local:
        raise ValueError("must be https; http only to this machine")
    return address.scheme + url[len(address.scheme) :].rstrip("/")


def bigquery_storage_endpoint(text: str) -> str:
    """Check a host with its port; it may be empty."""
    if text and (not re.fullmatch("[^/]+:[0-9]+", text) or address_of(f"https://{text}") is None):
        raise ValueError("must be host:port, for instance bigquerystorage-private.p.googleapis.com:443")
    return text


def bigquery_location(text: str) -> str:
    """Check a BigQuery location; it may be empty."""
    if not re.fullmatch("([A-Za-z][A-Za-z0-9-]{0,62})?", text):
        raise ValueError("must be a BigQuery location, for instance EU or europe-west3")
    return text


def crm_hosts(text: str) -> str:
    """Check a list of hosts. A leading dot means all subdomains; it needs two labels, because .com would match any host."""
    for host in text.split(",") if text else []:
        name = host.removeprefix(".")
        is_host = bool(re.fullmatch(r"[^/:]+|\[[^/\]]+\]", name)) and address_of(f"https://{name}") is not None
        if not is_host or (host != name and "." not in name):
            raise ValueError(
                "must be hosts with commas between and no blanks, for instance proxy.example,.internal.example"
            )
    return text


def crm_proxy(url: SecretStr) -> SecretStr:
    """Check a proxy for https; it may be empty."""
    text = _PROXY_USER.sub("", url.get_secret_value())
    address = address_of(text)
    if text and (address is None or address.scheme != "http" or "/" in text.removesuffix("/")[len("http://") :]):
        raise ValueError(
            "must be http://host:port of a proxy, or http://user:password@host:port with special characters percent-encoded, "
            "such as %40"
        )
    return url


def crm_ca_file(path: str) -> str:
    """Check a file of certificates; it may be empty."""
    try:
        if path:
            ssl.create_default_context(cafile=path)
    except (OSError, ValueError):
        raise ValueError("must be a file of certificates in PEM form that can be read") from None
    return path


def api_key(key: SecretStr) -> SecretStr:
    """Check a key that is sent in a header."""
    _see_secret(key.get_secret_value(), "key", is_needed=True)
    return key


def client_secret(secret: SecretStr, info: ValidationInfo) -> SecretStr:
    """Check the secret of an OAuth client, which must be set together with the client id."""
    text = secret.get_secret_value()
    _see_secret(text, "secret", is_needed=False)
    if bool(text) != bool(info.data.get("crm_client_id", text)):
        raise ValueError("must be set together with WINBACK_CRM_CLIENT_ID")
    return secret


def client_id(text: str) -> str:
    """Check the id of an OAuth client; it may be empty."""
    _see_secret(text, "id", is_needed=False)
    return text


def _see_secret(text: str, what: str, *, is_needed: bool) -> None:
    if (is_needed and not text) or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"must be only the {what}, without a space or a line break, also at its end")
    if len(text) > MAX_KEY_LENGTH or (text[:1] in {"'", '"'} and text[:1] == text[-1:]):
        raise ValueError(f"must be only the {what}, without quotes around it and at most {MAX_KEY_LENGTH} characters")


def warehouse(url: str) -> str:
    """Check the address of a DuckDB file or of BigQuery datasets."""
    if url.startswith("bigquery://"):
        if not BIGQUERY.fullmatch(url):
            raise ValueError("must be bigquery://project/dataset_prefix, for instance bigquery://some-project/winback")
        return url
    path = url.removeprefix("duckdb:///")
    name = path.rpartition("/")[2]
    # DuckDB does not read a path as a file if its first part has a colon; :memory: would be lost when the command ends.
    if (
        path == url
        or not name.strip()
        or name in {".", ".."}
        or ":" in path.partition("/")[0]
        or not path.isprintable()
    ):
        raise ValueError(
            "must be duckdb:///path/to/file.duckdb (three slashes, four before an absolute path) "
            "or bigquery://project/dataset_prefix"
        )
    return url


def registry(uri: str) -> str:
    """Check the address of the model registry."""
    if uri in ("", "none") or (uri.startswith("sqlite:///") and uri != "sqlite:///"):
        return uri
    if re.match(r"https?://[^/?#]*@", uri):
        raise ValueError("must not contain a password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
    if address_of(uri) is None:
        raise ValueError("must be sqlite:///path/to/file.db, a tracking server's http(s)://host:port, or none")
    return uri.rstrip("/")


def memory_limit(text: str) -> str:
    """Check an amount of memory, in DuckDB's notation."""
    found = re.fullmatch(r"([1-9][0-9]{0,8}(?:\.[0-9]{1,9})?)(MB|GB)", text)
    size = float(found[1]) * (1_000 if found[2] == "GB" else 1) if found else 0
    if not MIN_MEMORY_MB <= size <= MAX_MEMORY_MB:
        raise ValueError("must be a size such as 500MB or 2GB, from 100MB on")
    return text


def moment(given: str | datetime) -> datetime:
    """Parse a date or a time; without a time zone it is UTC."""
    try:
        found = given if isinstance(given, datetime) else datetime.fromisoformat(given)
        found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a date or a time, such as 2000-01-01 or 2000-01-01T00:00:00Z") from None
    if found.year >= LAST_YEAR:
        raise ValueError(f"must be before {LAST_YEAR}: earlier times are rejected")
    return found
