"""Job context: the settings, configuration files, warehouse, CRM and clock that a run uses.

This is the only composition root. All other code gets values and small interfaces; tests pass their own parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from core.clock import utc_now
from core.errors import ContractError
from core.progress import NullProgress, ProgressReporter
from core.settings import Settings
from crm_sync.destination import Destination
from crm_sync.destinations.adapter import ClientCredentials
from crm_sync.destinations.factory import connect, load_options
from crm_sync.destinations.http.transport import Network, RetryBudget
from crm_sync.destinations.identity import identity_of
from crm_sync.field_mapping import FieldMapping, load_fields
from jobs.transform.dbt import Transform, Window, release
from jobs.transform.funnel import Funnel, load_funnel
from jobs.transform.schema_version import check_schema_version
from scoring.policy import Policy, load_policy
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.interface import Warehouse

if TYPE_CHECKING:
    from warehouse.bigquery.connection import Connection


@dataclass(frozen=True)
class JobContext:
    """Everything that a job needs."""

    settings: Settings
    funnel: Funnel
    policy: Policy
    fields: FieldMapping
    warehouse: Warehouse
    destination: Destination
    crm: str  # the identity of the CRM: crm_sync/destinations/identity.py
    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = time.monotonic
    reporter: ProgressReporter = field(default_factory=NullProgress)
    parsed: dict[str, Any] = field(default_factory=dict)  # dbt projects that this process has parsed

    def transform(self, window: Window, *, audit_percent: int = 0) -> Transform:
        """Return the dbt project for a window.

        With `audit_percent` it builds beside the tables, for that percentage of the users.
        """
        variables: dict[str, Any] = {
            **self.funnel.as_vars(),
            "cool_down_days": self.policy.voucher.cool_down_days,
            "churn_probability_step": self.fields.churn_probability_step,
            "tell_holdout": self.fields.tell_holdout,
            "audit_percent": audit_percent,
        }
        settings = self.settings
        environment = {"WINBACK_WAREHOUSE": settings.warehouse}
        if settings.bigquery:
            environment |= {
                "WINBACK_BIGQUERY_LOCATION": settings.bigquery_location,
                "WINBACK_BIGQUERY_MAX_BYTES": str(settings.bigquery_max_bytes),
                "WINBACK_BIGQUERY_ENDPOINT": settings.bigquery_endpoint,
            }
        return Transform(environment, settings.dbt_target, variables, window, parsed=self.parsed)


def not_in_the_future(context: JobContext, until: datetime) -> None:
    """Reject a window that ends in the future, because no later window would read the rows loaded before its end.

    Raises: ContractError.
    """
    if until > context.now():
        raise ContractError(
            f"Until {until:%Y-%m-%d %H:%M} UTC is in the future: later runs would not read the rows loaded before it. "
            "Choose a time in the past."
        )


def bigquery_connection(settings: Settings) -> Connection:
    """Return how to connect to BigQuery, from the settings."""
    from warehouse.bigquery.connection import Connection  # noqa: PLC0415 - takes a second; DuckDB does not need it

    project, prefix = settings.bigquery or ("", "")
    return Connection(
        project,
        prefix,
        location=settings.bigquery_location,
        max_bytes_billed=settings.bigquery_max_bytes,
        endpoint=settings.bigquery_endpoint,
        storage_endpoint=settings.bigquery_storage_endpoint,
        labels={"app": "winback"},
    )


def open_warehouse(settings: Settings, *, is_read_only: bool = False) -> Warehouse:
    """Open the DuckDB file or connect to BigQuery, depending on WINBACK_WAREHOUSE. `is_read_only` protects a DuckDB file.

    Raises: ContractError if it is missing or access is denied, RunInProgressError if another run holds the file.
    """
    path = settings.duckdb_file
    if path is None:
        from warehouse.bigquery.warehouse import BigQueryWarehouse  # noqa: PLC0415 - takes a second; DuckDB does not need it

        return BigQueryWarehouse(bigquery_connection(settings))
    if not path.is_file():
        raise ContractError(
            f"The warehouse {path.name} does not exist in {path.parent.absolute()}/. "
            "Load data first (winback load --events FILE --users FILE), or correct WINBACK_WAREHOUSE."
        )
    return DuckDBWarehouse(path, memory_limit=settings.memory_limit, is_read_only=is_read_only)


def open_destination(settings: Settings, fields: FieldMapping) -> Destination:
    """Create the client of the CRM that the settings name; nothing is sent yet.

    Raises: ContractError for a mistake in `crm.yml`, a host that is not allowed, or a property that the CRM does not support.
    """
    return connect(
        settings.crm,
        settings.crm_url,
        _key(settings),
        load_options(settings.config / "crm.yml"),
        fields,
        allowed_hosts=settings.allowed_crm_hosts,
        budget=RetryBudget(
            settings.retry_budget_seconds,
            network=Network(settings.crm_ca_file, settings.crm_proxy.get_secret_value()),
        ),
    )


def _key(settings: Settings) -> str | ClientCredentials:
    if settings.crm_client_id:
        return ClientCredentials(settings.crm_client_id, settings.crm_client_secret.get_secret_value())
    return settings.crm_api_key.get_secret_value()


@contextmanager
def open_context(
    settings: Settings, *, is_migrating: bool = False, is_read_only: bool = False, **parts: Any
) -> Iterator[JobContext]:
    """Read the configuration, open the warehouse and connect the CRM; `parts` override parts of the context.

    A migration accepts a warehouse of an earlier version; all other commands need one of this version. A read-only context
    creates no table: some may be missing.

    Raises: ContractError for an invalid file or an old warehouse, RunInProgressError if another run holds the warehouse.
    """
    funnel = load_funnel(settings.config / "funnel.yml")
    policy = load_policy(settings.config / "vouchers.yml")
    fields = load_fields(settings.config / "crm_fields.yml")
    destination = parts.pop("destination", None) or open_destination(settings, fields)
    crm = parts.pop("crm", None) or identity_of(settings.crm, settings.crm_url)
    warehouse = open_warehouse(settings, is_read_only=is_read_only)
    try:
        if not is_migrating:
            if is_read_only:
                warehouse.check()
            else:
                warehouse.prepare()
            check_schema_version(warehouse)
        yield JobContext(settings, funnel, policy, fields, warehouse, destination, crm, **parts)
    finally:
        release()
        warehouse.close()
        destination.close()
