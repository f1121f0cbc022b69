"""BigQuery for tests: bqemulator, a real process, behind a proxy that corrects its replies and injects faults.

    with Emulator(tmp_path) as emulator:
        client, reader = clients(emulator)

Limitations: bytes processed are always 0, required partition filters are not enforced, and its speed is not BigQuery's.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb
import grpc
from duckdb_extensions import import_extension
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import BigQueryReadClient
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

from tests.support.bigquery_emulator.http import serve
from tests.support.bigquery_emulator.proxy import Asked, Fault, Imitation, Json, Match

PROJECT = "local"
STARTS_WITHIN_SECONDS = 60.0


class Emulator:
    """A BigQuery for tests. `url` is its REST endpoint, `storage_endpoint` that of the Storage Read API.

    Faults match the SQL of a query, or `load dataset.table as job_id`, by a part of the text or by a function of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rest_port, self._grpc_port = _free_ports(2)
        self.storage_endpoint = f"localhost:{self._grpc_port}"
        self._imitation = Imitation(self._rest_port, folder / "uploads")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with duckdb.connect() as connection:
            # bqemulator loads this, and would otherwise download it.
            import_extension("spatial", con=connection)
        self.start()
        self._server = serve(self._imitation.answer)
        self._imitation.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.stop()

    @property
    def url(self) -> str:
        """The proxy's REST endpoint."""
        return self._imitation.url

    # The process

    def start(self) -> None:
        """Start the process and wait until it replies.

        Raises: RuntimeError when it ends, or does not reply in time.
        """
        ports = ["--rest-port", str(self._rest_port), "--grpc-port", str(self._grpc_port)]
        place = [
            "--persistent",
            "--data-dir",
            str(self.folder / "data"),
            "--project",
            PROJECT,
            "--log-level",
            "warning",
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "emulator.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bqemulator", "start", *ports, *place],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        give_up_at = time.monotonic() + STARTS_WITHIN_SECONDS
        while not (_answers(self._rest_port) and _answers(self._grpc_port)):
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                self.kill()
                raise RuntimeError(f"bqemulator did not start: {(self.folder / 'emulator.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the process and wait for its end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process, like a machine failure."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start again with the same ports and data."""
        self.stop()
        self.start()

    def _end(self, sign: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            os.kill(self._process.pid, sign)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    # Requests

    @property
    def asked(self) -> list[Asked]:
        """Every job and query since `forget`, in order of arrival: text, job id, labels."""
        return list(self._imitation.asked)

    @property
    def statements(self) -> list[str]:
        """The SQL of the queries among them."""
        return [a.text for a in self.asked if not a.text.startswith("load ")]

    def forget(self) -> None:
        """Forget the requests and the faults that have not happened yet."""
        self._imitation.asked.clear()
        self._imitation.faults.clear()

    # Faults

    def refuse(self, match: Match, error: Json, times: int = 1) -> None:
        """Refuse the next matching requests with `{status, reason, message}`; no job is created."""
        self._imitation.faults.append(Fault("refuse", match, times, error=error))

    def fail(self, match: Match, error: Json, times: int = 1) -> None:
        """Create the next matching jobs and let them fail with `{reason, message}`, so that their ids are used up."""
        self._imitation.faults.append(Fault("fail", match, times, error=error))

    def before(self, match: Match, action: Callable[[], object], times: int = 1) -> None:
        """Call a function before the next matching request is performed."""
        self._imitation.faults.append(Fault("before", match, times, action=action))

    def after(self, match: Match, action: Callable[[], object], times: int = 1) -> None:
        """Call a function when the next matching request has been performed, before its reply is sent."""
        self._imitation.faults.append(Fault("after", match, times, action=action))

    def lose_reply(self, match: Match, times: int = 1) -> None:
        """Perform the next matching requests and break the connection instead of replying."""
        self._imitation.faults.append(Fault("lose", match, times))


def clients(emulator: Emulator) -> tuple[bigquery.Client, BigQueryReadClient]:
    """Return a client for jobs and one for reading results, without credentials."""
    client = bigquery.Client(
        project=PROJECT,
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=emulator.url),
    )
    # 4 MiB, the default limit of a message, is less than a page of rows.
    channel = grpc.insecure_channel(emulator.storage_endpoint, options=[("grpc.max_receive_message_length", -1)])
    return client, BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def _answers(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0
