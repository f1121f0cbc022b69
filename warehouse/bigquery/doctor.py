"""Examination of a project for `winback doctor`: datasets, tables and permissions, with the job's own credentials.

It changes nothing and is not billed: it uses metadata, dry runs, permission tests, and a read session that is opened but not
read. No query is run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import TypeVar

from google.api_core import exceptions as api
from google.auth import compute_engine, external_account, impersonated_credentials
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud import bigquery
from google.cloud.bigquery_storage import DataFormat, ReadSession
from google.oauth2 import credentials as oauth2
from google.oauth2 import service_account

from core.errors import WinbackError
from warehouse.bigquery.connection import Connection
from warehouse.bigquery.errors import explain
from warehouse.bigquery.facts import LAYERS, Facts, Granted, Kind, Login, Refusal, RefusalKind, TableFacts
from warehouse.bigquery.loads import STANDARD, schema_of
from warehouse.bigquery.warehouse import BigQueryWarehouse
from warehouse.tables import ALL, RUNS, USERS, VOUCHER_REDEMPTIONS

Answer = TypeVar("Answer")

# Tables that the scorer and the sync read each hour. The labels of dbt's jobs show what dbt reads.
READS = ("fct_scoring_candidates", "crm_pending")
# Permissions on the project: https://cloud.google.com/bigquery/docs/access-control
PROJECT_PERMISSIONS = ("bigquery.jobs.create", "bigquery.readsessions.create", "bigquery.datasets.create")
_READING = frozenset({"bigquery.tables.get", "bigquery.tables.getData"})
# bigquery.tables.create belongs to a dataset, which has no permission test; the role with these four permissions includes it.
_WRITING = _READING | {"bigquery.tables.updateData", "bigquery.tables.update", "bigquery.tables.delete"}
# Small tables that can be read without a filter on time.
_SMALL = tuple(table.title for table in (RUNS, VOUCHER_REDEMPTIONS, USERS))
_LOGINS: tuple[tuple[type[Credentials], Kind], ...] = (
    (AnonymousCredentials, "none"),
    (service_account.Credentials, "key"),
    (compute_engine.Credentials, "attached"),
    (impersonated_credentials.Credentials, "impersonated"),
    (external_account.Credentials, "federated"),
    (oauth2.Credentials, "person"),
)


def examine(connection: Connection) -> Facts:
    """Run all checks. A refused request skips only the checks that depend on it."""
    # A fixed location, so that connecting sends no request, and no limit, so that a dry run reports its bytes instead of failing.
    freely = replace(connection, location=connection.location or "US", max_bytes_billed=1 << 62)
    try:
        warehouse = BigQueryWarehouse(freely)
    except WinbackError as error:
        return Facts(login=Refusal("login", str(error)))
    with closing(warehouse):
        return _Examiner(warehouse).look()


class _Examiner:
    """Examines one project over one connection."""

    def __init__(self, warehouse: BigQueryWarehouse) -> None:
        self.warehouse = warehouse
        self.client = warehouse.client
        # The client itself retries for ten minutes, and has no time limit for a request that hangs.
        self.seconds = warehouse.connection.retry_seconds
        self.retry = bigquery.DEFAULT_RETRY.with_timeout(self.seconds)
        self.project, self.prefix = warehouse.connection.project, warehouse.connection.prefix

    def look(self) -> Facts:
        locations: dict[str, str | Refusal] = {}
        for layer in LAYERS:
            locations[layer] = found = _asked(self._location, layer)
            if isinstance(found, Refusal) and found.kind in ("login", "unreachable", "disabled"):
                # Every further request would wait just as long.
                login = found if found.kind == "login" else login_of(self.client._credentials)
                return Facts(login, queries=found)
        facts = Facts(Login("other"), locations=locations)
        credentials, is_local = self.client._credentials, self.warehouse.connection.is_local
        tables = self._tables(facts)
        dry = _asked(self._bytes, "select 1", facts.location)
        return replace(
            facts,
            # Last, because the metadata server's identity has a name only after a request.
            login=login_of(credentials),
            queries=dry if isinstance(dry, Refusal) else None,
            project=Refusal("unasked", "")
            if is_local
            else project_permissions(credentials, self.project, self.seconds),
            tables=tables,
            granted=self._granted(facts),
            session=self._session(tables),
            reads={f"marts.{name}": self._read(facts, name) for name in READS},
        )

    def _location(self, layer: str) -> str:
        dataset = self.client.get_dataset(self._dataset(layer), retry=self.retry, timeout=self.seconds)
        return str(dataset.location)

    def _dataset(self, layer: str) -> str:
        return f"{self.project}.{self.prefix}_{layer}"

    def _tables(self, facts: Facts) -> dict[str, TableFacts | Refusal]:
        asked = [table for table in ALL if isinstance(facts.locations[table.layer], str)]
        found: dict[str, TableFacts | Refusal] = {}
        for table in asked:
            absent = {column.name for column in table.columns if column.may_be_absent}
            wanted = {column.name: column.field_type for column in schema_of(table) if column.name not in absent}
            there = _asked(self._table, table.layer, table.name)
            found[table.title] = there if isinstance(there, Refusal) else _facts_of(there, wanted)
        return found

    def _table(self, layer: str, name: str) -> bigquery.Table:
        return self.client.get_table(f"{self._dataset(layer)}.{name}", retry=self.retry, timeout=self.seconds)

    def _bytes(self, sql: str, location: str) -> int:
        config = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
        place = location or None
        job = self.client.query(sql, config, location=place, retry=self.retry, timeout=self.seconds, job_retry=None)
        return int(job.total_bytes_processed or 0)

    def _read(self, facts: Facts, name: str) -> int | Refusal:
        if not isinstance(facts.locations["marts"], str):
            return Refusal("missing", "")
        return _asked(self._bytes, f"select * from {self.warehouse.relation('marts', name)}", facts.location)

    def _granted(self, facts: Facts) -> dict[str, Granted | Refusal]:
        there = [layer for layer in LAYERS if isinstance(facts.locations[layer], str)]
        return {layer: _asked(self._granted_on, layer) for layer in there}

    def _granted_on(self, layer: str) -> Granted | Refusal:
        tables = self.client.list_tables(
            self._dataset(layer), max_results=1, retry=self.retry, timeout=self.seconds
        )  # fmt: skip
        first = next(iter(tables), None)
        if first is None:
            return Refusal("missing", "")
        wanted = _READING if layer == "raw" else _WRITING
        try:
            answer = self.client.test_iam_permissions(
                first.reference, sorted(wanted), retry=self.retry, timeout=self.seconds
            )
        except (api.NotFound, api.MethodNotAllowed, api.MethodNotImplemented):
            return Refusal("unasked", "")  # the table exists, so the endpoint has no permission test
        return Granted(first.table_id, wanted, frozenset(answer.get("permissions", ())))

    def _session(self, tables: dict[str, TableFacts | Refusal]) -> bool | Refusal | None:
        """Open a read session on a small table, like a run. It is not read, costs nothing, and ends by itself."""
        readable = [
            name for name in _SMALL if isinstance(found := tables.get(name), TableFacts) and found.kind == "TABLE"
        ]
        if not readable:
            return None
        layer, name = readable[0].split(".")
        path = f"projects/{self.project}/datasets/{self.prefix}_{layer}/tables/{name}"

        def ask() -> bool:
            wanted = ReadSession(table=path, data_format=DataFormat.ARROW)
            parent = f"projects/{self.project}"
            self.warehouse.storage.create_read_session(
                parent=parent, read_session=wanted, max_stream_count=1, retry=None, timeout=self.seconds
            )
            return True

        return _asked(ask)


def project_permissions(credentials: Credentials, project: str, seconds: float) -> frozenset[str] | Refusal:
    """Return which of PROJECT_PERMISSIONS these credentials have.

    BigQuery has no such request. The Resource Manager answers it without further permissions, if its API is enabled and
    reachable.
    """
    url = f"https://cloudresourcemanager.googleapis.com/v1/projects/{project}:testIamPermissions"
    try:
        with AuthorizedSession(credentials) as session:
            reply = session.post(url, json={"permissions": list(PROJECT_PERMISSIONS)}, timeout=seconds)
            if reply.ok:
                return frozenset(reply.json().get("permissions", ()))
    except (auth.GoogleAuthError, OSError, ValueError):
        pass
    return Refusal("unasked", "")


def login_of(credentials: Credentials) -> Login:
    """Return the kind of these credentials. A person's address is left out."""
    kind: Kind = next((kind for made, kind in _LOGINS if isinstance(credentials, made)), "other")
    account = str(getattr(credentials, "service_account_email", None) or "")
    # The metadata server's account is called `default` before the first request.
    return Login(kind, account if "@" in account and kind != "person" else "")


def _asked(question: Callable[..., Answer], *arguments: str) -> Answer | Refusal:
    try:
        return question(*arguments)
    except (api.GoogleAPIError, auth.GoogleAuthError, OSError) as error:
        return Refusal(_kind(error), str(explain(error)))


def _kind(error: BaseException) -> RefusalKind:
    reasons = {one.get("reason") for one in getattr(error, "errors", ()) if isinstance(one, dict)}
    match error:
        case api.NotFound():
            return "missing"
        case api.Forbidden() if "accessNotConfigured" in reasons:
            return "disabled"
        case api.Forbidden() if not reasons - {"accessDenied", "forbidden"}:
            return "denied"
        case api.Unauthorized() | auth.RefreshError() | auth.DefaultCredentialsError():
            return "login"
        case api.RetryError() | api.ServerError() | auth.TransportError() | OSError():
            return "unreachable"
        case _:
            return "other"


def _facts_of(table: bigquery.Table, wanted: dict[str, str]) -> TableFacts:
    by_time = table.time_partitioning
    return TableFacts(
        types={column.name: _type_of(column) for column in table.schema},
        wanted=wanted,
        kind=table.table_type or "TABLE",
        partition_on=by_time.field if by_time else None,
        partition_by=by_time.type_ if by_time else None,
        is_filter_required=bool(table.require_partition_filter),
        clustered_by=tuple(table.clustering_fields or ()),
        count_bytes=int(table.num_bytes or 0),
    )


def _type_of(column: bigquery.SchemaField) -> str:
    name = STANDARD.get(column.field_type, column.field_type)
    return f"ARRAY<{name}>" if column.mode == "REPEATED" else name
