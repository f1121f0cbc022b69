"""Connection to BigQuery: project, credentials, time limits and retries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import google.auth.credentials
from google.api_core import exceptions as api
from google.api_core.retry import Retry, if_exception_type
from google.cloud import bigquery
from google.cloud.bigquery.retry import DEFAULT_JOB_RETRY
from google.cloud.bigquery_storage import BigQueryReadClient


@dataclass(frozen=True)
class Connection:
    """Address of BigQuery and cost limit of a query. An empty location means the raw dataset's, an empty endpoint Google's."""

    project: str
    prefix: str
    location: str = ""
    max_bytes_billed: int = 1 << 40
    endpoint: str = ""
    storage_endpoint: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    # How long a request that cannot reach BigQuery is retried. The client's default is ten minutes.
    retry_seconds: float = 120

    @property
    def is_local(self) -> bool:
        """Whether the endpoint is an emulator on this machine."""
        return self.endpoint.startswith("http://")


class Client(bigquery.Client):
    """Google's client, also used by pandas-gbq, with our time limits. By default a query retries 10 minutes and its job 40."""

    retry_seconds: float = 0

    def query_and_wait(self, query: str, **options: Any) -> Any:
        """Run a query and wait for it, within our retry time."""
        patience = {
            "retry": bigquery.DEFAULT_RETRY.with_timeout(self.retry_seconds),
            "job_retry": DEFAULT_JOB_RETRY.with_timeout(self.retry_seconds),
        }
        return super().query_and_wait(query, **(patience | options))


class ReadClient(BigQueryReadClient):
    """Google's reader with our time limit. By default it retries a stream for a day."""

    retry_seconds: float = 0

    def read_rows(self, name: str, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]
        """Read rows, within our retry time."""
        patience = Retry(predicate=if_exception_type(api.ServiceUnavailable), timeout=self.retry_seconds)
        return super().read_rows(name, *arguments, **({"retry": patience} | options))  # type: ignore[no-untyped-call]


def connect(wanted: Connection, location: str | None = None) -> Client:
    """Return the client for jobs and tables. Every query has the labels and the byte limit.

    Raises: the error of Google's library if there are no credentials.
    """
    client = Client(
        project=wanted.project,
        location=location,
        credentials=_credentials(wanted),
        client_options={"api_endpoint": wanted.endpoint} if wanted.endpoint else None,
        default_query_job_config=bigquery.QueryJobConfig(
            labels=wanted.labels, maximum_bytes_billed=wanted.max_bytes_billed
        ),
        default_load_job_config=bigquery.LoadJobConfig(labels=wanted.labels),
    )
    client.retry_seconds = wanted.retry_seconds
    return client


def connect_storage(wanted: Connection, credentials: google.auth.credentials.Credentials) -> ReadClient:
    """Return the client for the Storage Read API."""
    client = _read_client(wanted, credentials)
    client.retry_seconds = wanted.retry_seconds
    return client


def _read_client(wanted: Connection, credentials: google.auth.credentials.Credentials) -> ReadClient:
    endpoint = wanted.storage_endpoint
    if not (endpoint and wanted.is_local):
        options = {"api_endpoint": endpoint} if endpoint else None
        return ReadClient(credentials=credentials, client_options=options)  # type: ignore[no-untyped-call]
    import grpc  # noqa: PLC0415 - plain text is only for an emulator on this machine
    from google.cloud.bigquery_storage_v1.services.big_query_read.transports import (  # noqa: PLC0415
        BigQueryReadGrpcTransport,
    )

    # BigQuery's own client accepts messages of any size; a plain channel is limited to 4 MiB.
    channel = grpc.insecure_channel(endpoint, options=[("grpc.max_receive_message_length", -1)])
    return ReadClient(transport=BigQueryReadGrpcTransport(channel=channel))  # type: ignore[no-untyped-call]


def _credentials(wanted: Connection) -> google.auth.credentials.Credentials | None:
    """The credentials; None: Google's default. Plain HTTP is only possible on this machine and needs none."""
    return google.auth.credentials.AnonymousCredentials() if wanted.is_local else None
