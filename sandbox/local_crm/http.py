"""HTTP server of the local CRM.

HTTP/1.1: connections stay open, unless a fault closes them. Werkzeug's own server closes each connection after waiting 10 ms for
more data, which is most of the time of a small request.
"""

import logging
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import IO, Any, Literal, cast

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wsgi import LimitedStream

ARRIVED_AT = "winback.arrived_at"  # in the environ: when the request's first line was read
_log = logging.getLogger(__name__)


class ConnectionDroppedError(ConnectionError):
    """Ends the connection without a (complete) reply: normally, with a reset, or by waiting until the client disconnects."""

    def __init__(self, how: Literal["end", "reset", "wait"]) -> None:
        super().__init__("the connection is to be closed")
        self.how = how


class Server(ThreadedWSGIServer):
    """One thread per connection. `clock` stamps requests as they arrive."""

    def __init__(
        self, listener: socket.socket, app: Callable[..., Iterable[bytes]], clock: Callable[[], datetime]
    ) -> None:
        host, port = listener.getsockname()
        # The socket is bound before: werkzeug would end the process when the port is in use.
        super().__init__(host, port, app, handler=Handler, fd=listener.fileno())
        self.clock = clock
        self.open: dict[socket.socket, threading.Thread] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in its own thread, registered before it begins."""
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self.open[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        """Remove a closed connection."""
        self.open.pop(request, None)
        super().shutdown_request(request)

    def leave(self) -> None:
        """Stop reading, let the replies in progress go out, then close every connection."""
        for connection, thread in list(self.open.items()):
            try:
                connection.shutdown(socket.SHUT_RD)
            except OSError:
                continue  # it has just closed
            thread.join(timeout=5)


class Handler(WSGIRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def parse_request(self) -> bool:
        """Stamp the request before anything can delay it."""
        self.arrived_at = self.server.clock()
        return super().parse_request()

    def run_wsgi(self) -> None:
        """Call the app and reply, as werkzeug does, but leave the connection open."""
        self.environ = environ = self.make_environ()
        environ[ARRIVED_AT] = self.arrived_at
        body = None
        if "wsgi.input_terminated" not in environ:
            length = self.headers.get("Content-Length", "0")
            is_length = re.fullmatch("[0-9]{1,15}", length) is not None
            # If the length is unreadable, the start of the next request is unknown.
            self.close_connection = self.close_connection or not is_length
            body = LimitedStream(cast(IO[bytes], self.rfile), int(length) if is_length else 0)
            environ |= {"wsgi.input": body, "wsgi.input_terminated": True}
        self.has_begun = False
        try:
            self._answer(environ)
            if body is None:
                self.close_connection = True
            else:
                body.exhaust()
        except ConnectionDroppedError as error:
            self._hang_up(error.how)
        except ConnectionError:
            self.close_connection = True
        except Exception:  # noqa: BLE001 - an unexpected error is logged, and the server continues
            _log.exception("The local CRM failed to answer a request.")
            self.close_connection = True
            if not self.has_begun:
                self.wfile.write(
                    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )

    def _answer(self, environ: dict[str, Any]) -> None:
        head: list[bytes] = []

        def start_response(status: str, headers: list[tuple[str, str]], _error: object = None) -> Callable[..., Any]:
            code = int(status.split(maxsplit=1)[0])
            names = {name.lower() for name, _ in headers}
            headers = [*headers, ("Date", self.date_time_string())]
            if "content-length" not in names and code >= 200 and code not in {204, 304}:
                self.close_connection = True  # such a reply ends where the connection ends
                headers.append(("Connection", "close"))
            lines = [f"{self.protocol_version} {status}", *(f"{name}: {value}" for name, value in headers), "", ""]
            head[:] = ["\r\n".join(lines).encode("latin-1")]
            return self.wfile.write

        parts = self.server.app(environ, start_response)
        try:
            for part in parts:
                # The headers go out with the first part: one packet less, and nothing is sent before the app could fail.
                self.has_begun = True
                self.wfile.write(b"".join([*head, part]))
                head.clear()
            if head:
                self.wfile.write(head[0])
        finally:
            if hasattr(parts, "close"):
                parts.close()

    def _hang_up(self, how: str) -> None:
        self.close_connection = True
        if how == "wait":
            # The rest of the body may still come. Data ends when the client disconnects, or the server closes its half.
            while self.connection.recv(65_536):
                pass
        if how == "reset":
            # Lingering for 0 seconds makes close() send RST; the reader shares the socket and must let go first.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()

    def log_error(self, format: str, *args: Any) -> None:  # noqa: A002, ARG002 - the base class's signature
        """Log that a request could not be read, without its content, which may hold users' data."""
        _log.warning("The local CRM received data that is not an HTTP request.")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing, because a demo sends thousands of requests."""
