"""How does the local CRM run? A server on the loopback address that speaks Braze's wire format and shows what it holds."""

import socket
import struct
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flask import Flask, Response
from werkzeug.serving import WSGIRequestHandler, make_server

from sandbox.crm_pages import add_pages
from sandbox.crm_store import CrmStore
from sandbox.crm_wire import Allowance, HangUpError, Wire


def create_app(store: CrmStore, *, api_key: str, clock: Callable[[], datetime]) -> Flask:
    """Build the app. Tests may set `app.config["ALLOWANCE"].requests` to meet the rate limit sooner."""
    app = Flask(__name__)
    # A hang-up must reach the handler of the connection; a bug of ours must reach the log.
    app.config.update(PROPAGATE_EXCEPTIONS=True, ALLOWANCE=Allowance())
    app.url_map.merge_slashes = False  # an external id may hold two slashes
    Wire(store, api_key, clock, app.config["ALLOWANCE"]).add_to(app)
    add_pages(app, store, clock)

    @app.after_request
    def _harden(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        return response

    return app


class _Handler(WSGIRequestHandler):
    """One connection: says nothing about requests that went well, and can hang up."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: a demo sends thousands."""

    def connection_dropped(self, error: BaseException, environ: dict[str, Any] | None = None) -> None:  # noqa: ARG002 werkzeug's signature
        """Close the connection, with a reset if the app asked for one."""
        self.close_connection = True
        if isinstance(error, HangUpError) and error.reset:
            # Lingering for 0 seconds makes close() send RST; the reader shares the socket and must let go first.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()


class LocalCrm:
    """A CRM on 127.0.0.1, served in a thread for as long as the `with` block lasts.

    Raises OSError when the port is taken. Port 0 takes a free one.
    """

    def __init__(
        self,
        database: Path,
        *,
        api_key: str = "local-key",
        port: int = 0,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        # Bound here and handed over: werkzeug would end the process when the port is taken.
        with socket.create_server(("127.0.0.1", port)) as listener:
            self.store = CrmStore(database)
            self.app = create_app(self.store, api_key=api_key, clock=clock or (lambda: datetime.now(UTC)))
            self._server = make_server(
                "127.0.0.1", port, self.app, threaded=True, request_handler=_Handler, fd=listener.fileno()
            )
        self.url = f"http://127.0.0.1:{self._server.port}"
        # Looked at every 20 ms whether to stop; the default of half a second would be most of a test's time.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="local-crm", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self.store.close()

    def serve_forever(self) -> None:
        """Serve in the foreground until Ctrl-C, then close the database."""
        try:
            self._server.serve_forever()
        finally:
            self.store.close()
