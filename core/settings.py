"""Settings read from environment variables, with validation of every value."""

from __future__ import annotations

import os
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from core import setting_checks as checks
from core.clock import EARLIEST
from core.errors import ContractError


class Settings(BaseSettings):
    """All settings. Each is one environment variable: WINBACK_ and the name in capitals. List: docs/reference/settings.md."""

    model_config = SettingsConfigDict(env_prefix="WINBACK_", frozen=True, extra="ignore")

    warehouse: Annotated[str, AfterValidator(checks.warehouse)] = Field(
        "duckdb:///var/winback.duckdb",
        description="The warehouse: `duckdb:///path` or `bigquery://project/dataset_prefix`.",
    )
    bigquery_location: Annotated[str, AfterValidator(checks.bigquery_location)] = Field(
        "", description="Location of the BigQuery datasets. Empty: that of the raw dataset."
    )
    bigquery_max_bytes: int = Field(
        1 << 40,
        gt=0,
        lt=1 << 63,
        description="Maximum bytes that one BigQuery query may read. BigQuery refuses a larger query before it bills.",
    )
    bigquery_endpoint: Annotated[str, AfterValidator(checks.bigquery_endpoint)] = Field(
        "", description="Address of the BigQuery API, for private access or a local emulator. Empty: Google's."
    )
    bigquery_storage_endpoint: Annotated[str, AfterValidator(checks.bigquery_storage_endpoint)] = Field(
        "", description="Address of the BigQuery Storage Read API, as `host:port`. Empty: Google's."
    )
    models: Path = Field(Path("var/models"), description="Folder of the model bundles.")
    registry: Annotated[str, AfterValidator(checks.registry)] = Field(
        "",
        description="Model registry: `sqlite:///path`, the `http(s)://...` of a tracking server, or `none`. "
        "Empty: `registry.db` in `WINBACK_MODELS`.",
    )
    config: Path = Field(
        Path("config"),
        description="Folder of funnel.yml, features.yml, vouchers.yml, crm_fields.yml, crm.yml and training.yml.",
    )
    crm: Literal["braze", "hubspot", "klaviyo", "salesforce"] = Field(
        "braze", description="The CRM: `braze`, `hubspot`, `klaviyo` or `salesforce`."
    )
    crm_url: Annotated[str, AfterValidator(checks.crm_url)] = Field(
        "http://127.0.0.1:8765", description="Address of the CRM's REST API: https, or http on this machine."
    )
    crm_hosts: Annotated[str, AfterValidator(checks.crm_hosts)] = Field(
        "",
        description="Additional hosts that may receive the API key, such as a proxy's, separated by commas.",
    )
    crm_api_key: Annotated[SecretStr, AfterValidator(checks.api_key)] = Field(
        SecretStr("local-key"), description="API key of the CRM. `winback doctor` lists the permissions that it needs."
    )
    crm_ca_file: Annotated[str, AfterValidator(checks.crm_ca_file)] = Field(
        "", description="File of the certificate authorities (PEM) for the CRM's certificate. Empty: the public ones."
    )
    crm_proxy: Annotated[SecretStr, AfterValidator(checks.crm_proxy)] = Field(
        SecretStr(""),
        description="Proxy for https requests to the CRM: `http://host:port`, or `http://user:password@host:port`.",
    )
    crm_client_id: Annotated[str, AfterValidator(checks.client_id)] = Field(
        "",
        description="Salesforce: id of an app with the OAuth client credentials flow, which renews access tokens. "
        "It replaces the API key.",
    )
    crm_client_secret: Annotated[SecretStr, AfterValidator(checks.client_secret)] = Field(
        SecretStr(""), validate_default=True, description="Secret of the app in `WINBACK_CRM_CLIENT_ID`."
    )
    safety_lag_seconds: int = Field(
        120,
        ge=0,
        le=86_400,
        description="`until` is this many seconds before now, so that rows still being written are not skipped.",
    )
    catch_up_days: int = Field(
        30, ge=1, le=365, description="How many days back `winback rebuild` looks for raw events that no run has read."
    )
    max_watermark_age_seconds: int = Field(
        7_200,
        ge=0,
        le=31_536_000,
        description="Age of the watermark in seconds, above which commands and `status --json` report it as stale. 0: never.",
    )
    lease_seconds: int = Field(
        900,
        ge=0,
        le=86_400,
        description="BigQuery: seconds that the lease of a killed run keeps other runs out. 0: not at all. Unused on DuckDB.",
    )
    run_deadline_seconds: int = Field(
        2_700,
        gt=0,
        le=86_400,
        description="A run stops sending this many seconds after its start. The next run sends the rest.",
    )
    retry_budget_seconds: float = Field(
        120, gt=0, le=86_400, allow_inf_nan=False, description="How many seconds one request to the CRM is retried."
    )
    max_rejected_ratio: float = Field(
        0.5, ge=0, le=1, description="Share of rejected users above which the circuit breaker stops the sync (exit 3)."
    )
    min_audience_ratio: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the last run's audience below which the sync stops before it withdraws anything (exit 3).",
    )
    dbt_target: Path = Field(
        Path("var/dbt"), description="Folder of dbt's compiled files and logs, and of the parsed project."
    )
    memory_limit: Annotated[str, AfterValidator(checks.memory_limit)] = Field(
        "2GB",
        description="Memory limit of DuckDB. Above it, DuckDB spills to disk.",
    )
    earliest_at: Annotated[datetime, BeforeValidator(checks.moment)] = Field(
        EARLIEST,
        description="`winback load` refuses times before this one, such as empty dates, or seconds read as milliseconds.",
    )
    debug: bool = Field(False, description="Show tracebacks of unexpected errors. They may contain users' data.")
    threads: int = Field(0, ge=0, le=1_024, description="Threads for scoring. 0: one per core.")
    shadow: bool = Field(
        False,
        description="The challenger also scores each run's exits, into `ops.shadow_scores`. Its scores are never sent.",
    )

    @property
    def registry_uri(self) -> str:
        """Address of the registry: `none`, `sqlite:///path` or a tracking server."""
        return self.registry or f"sqlite:///{self.models / 'registry.db'}"

    @property
    def allowed_crm_hosts(self) -> tuple[str, ...]:
        """Hosts that the key may be sent to, in addition to the CRM's own."""
        return tuple(host.lower().strip("[]") for host in self.crm_hosts.split(",") if host)

    @property
    def duckdb_file(self) -> Path | None:
        """The DuckDB file, or None if the warehouse is BigQuery."""
        return None if self.bigquery else Path(self.warehouse.removeprefix("duckdb:///"))

    @property
    def bigquery(self) -> tuple[str, str] | None:
        """Project and prefix of the datasets, or None if the warehouse is a DuckDB file."""
        found = checks.BIGQUERY.fullmatch(self.warehouse)
        return (found["project"], found["prefix"]) if found else None


def read_settings() -> Settings:
    """Read and validate the environment variables.

    Raises: ContractError that lists all wrong variables, without their values, which may be secrets.
    """
    lines = _unknown()
    try:
        settings = Settings()
    except ValidationError as error:
        lines += [
            f"  WINBACK_{str(e['loc'][0]).upper()}: {checks.sentence(e)}"
            for e in error.errors(include_input=False, include_url=False)
        ]
    if lines:
        raise ContractError("Some settings cannot be used:\n" + "\n".join(lines))
    return settings


def _unknown() -> list[str]:
    """List misspelt variables, which would otherwise be ignored in favour of the default."""
    known = [name.upper() for name in Settings.model_fields]
    lines = []
    for name in sorted(os.environ):
        prefix, _, own = name.upper().partition("WINBACK_")
        if not prefix and own and own not in known:
            near = get_close_matches(own, known, n=1)  # without the prefix, which all names share
            lines.append(
                f"  {name}: this setting does not exist" + (f"; did you mean WINBACK_{near[0]}?" if near else "")
            )
    return lines
