"""HTTP for the emulator's proxy: listen, forward requests, and write replies."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HTTP_STATUS_NAMES = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS"}


@dataclass(frozen=True)
class Reply:
    """An HTTP reply."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> dict[str, Any]:
        """The JSON object in the body."""
        content: dict[str, Any] = json.loads(self.body or b"{}")
        return content

    @property
    def is_success(self) -> bool:
        """Whether the request, and the job if it is one, succeeded."""
        return self.status < 300 and "errorResult" not in self.content.get("status", {})


def json_reply(status: int, content: dict[str, Any]) -> Reply:
    """Return a reply with a JSON object."""
    return Reply(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


def error_reply(status: int, reason: str, message: str) -> Reply:
    """Return a refusal in the form of BigQuery's errors."""
    error = {"message": message, "domain": "global", "reason": reason}
    name = HTTP_STATUS_NAMES.get(status, "UNAVAILABLE")
    return json_reply(status, {"error": {"code": status, "message": message, "errors": [error], "status": name}})


Answer = Callable[[str, str, dict[str, str], bytes], Reply | None]


def forward(port: int, method: str, target: str, headers: dict[str, str], body: bytes) -> Reply:
    """Forward a request to a port of this machine.

    Raises: OSError or HTTPException when no server replies there.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        kept = {n: v for n, v in headers.items() if n in {"content-type", "authorization", "if-match"}}
        connection.request(method, target, body or None, kept)
        answer = connection.getresponse()
        return Reply(answer.status, answer.read(), {"Content-Type": answer.headers.get("Content-Type", "")})
    finally:
        connection.close()


def serve(answer: Answer) -> ThreadingHTTPServer:
    """Listen on a free port of this machine, each connection in a thread of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # otherwise each reply waits 40 ms for the client's acknowledgement
        wbufsize = -1

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {n.lower(): v for n, v in self.headers.items()}
            try:
                reply = answer(self.command, self.path, headers, body)
            except (OSError, http.client.HTTPException):
                reply = None  # the emulator is down: its clients see a broken connection
            if reply is None:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in (reply.headers | {"Content-Length": str(len(reply.body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
