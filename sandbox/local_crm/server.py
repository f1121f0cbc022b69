"""Local CRM: a server on the loopback address with the APIs of four CRMs and pages that show the stored profiles."""

import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from flask import Flask, Response

from sandbox.local_crm.access import add_doorkeeper
from sandbox.local_crm.apis.braze import BrazeWire
from sandbox.local_crm.apis.hubspot import HubSpotWire
from sandbox.local_crm.apis.klaviyo import KlaviyoWire
from sandbox.local_crm.apis.salesforce import SalesforceWire
from sandbox.local_crm.control_api import CONTROL, add_control
from sandbox.local_crm.http import Server
from sandbox.local_crm.requests import Desk
from sandbox.local_crm.store.profiles import CrmStore
from sandbox.local_crm.web.pages import add_pages


def create_app(desk: Desk) -> Flask:
    """Build the app: one CRM with four APIs, each on its own paths."""
    app = Flask(__name__, template_folder="web/templates")
    # Dropped connections must reach the connection's handler; unexpected errors must reach the log.
    app.config["PROPAGATE_EXCEPTIONS"] = True
    add_doorkeeper(app)
    app.url_map.merge_slashes = False  # an external id may hold two slashes
    wires = (BrazeWire(), HubSpotWire(), KlaviyoWire(), SalesforceWire())
    for wire in wires:
        wire.add_to(app, desk)
    add_control(app, desk)
    add_pages(app, desk, programs=(CONTROL, *(path for wire in wires for path in wire.paths)))

    @app.after_request
    def _harden(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'"  # no other site can embed our pages
        )
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return app


class LocalCrm:
    """A CRM on 127.0.0.1 that serves in a thread while the `with` block lasts.

    Port 0 takes a free one. A sink replies and counts as usual but stores nothing, for benches.

    Raises: OSError when the port is in use.
    """

    def __init__(
        self,
        database: Path,
        *,
        api_key: str = "local-key",
        port: int = 0,
        clock: Callable[[], datetime] | None = None,
        is_sink: bool = False,
    ) -> None:
        clock = clock or (lambda: datetime.now(UTC))
        with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
            self.store = CrmStore(database, clock)
            self.desk = Desk(self.store, api_key, clock, is_sink=is_sink)
            self.app = create_app(self.desk)
            self._server = Server(listener, self.app, clock)
        self.url = f"http://127.0.0.1:{self._server.port}"
        # Checks every 20 ms whether to stop. The default of half a second would be most of a test's time.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="local-crm", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._leave()

    def stand_at(self, moment: datetime) -> None:
        """Set the reception time of requests, and the pages' clock, to a moment, UTC: for a demo or a replay."""
        self.desk.stands_at = moment
        self.store.stand_at(moment)

    def serve_forever(self) -> None:
        """Serve in the foreground until Ctrl-C, then close the database."""
        try:
            self._server.serve_forever()
        finally:
            self._leave()

    def _leave(self) -> None:
        self.desk.closing.set()
        self._server.leave()
        self.store.close()
