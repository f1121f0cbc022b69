"""Helpers for tests of destinations: a run that waits without real time passing, and a server with scripted replies."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from crm_sync.destination import DeadlineExceededError

DATE = "Mon, 15 Jun 2026 10:00:00 GMT"
DATE_SECONDS = 1_781_517_600  # DATE as an epoch second


@dataclass
class FakeRunContext:
    """A Run whose waits take no time and are recorded. After `seconds_left` of waiting, it must stop."""

    run_id: str = "00000007-test"
    seconds_left: float = float("inf")
    waits: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return sum(self.waits)

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        if sum(self.waits) + seconds >= self.seconds_left:
            raise DeadlineExceededError(
                "The run's time was up before everything was sent; the next run continues.", "deadline"
            )
        self.waits.append(seconds)

    def check(self) -> None:
        if sum(self.waits) >= self.seconds_left:
            raise DeadlineExceededError(
                "The run's time was up before everything was sent; the next run continues.", "deadline"
            )


@dataclass
class Canned:
    """One reply. A body of bytes is sent as it is, anything else as JSON. `date` is the server's clock, None for no header."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    date: str | None = DATE

    @property
    def content(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Asked:
    """One request as the server received it; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


@dataclass
class Script:
    """Address of the server, and its requests."""

    url: str
    asked: list[Asked]


@contextmanager
def scripted_server(*replies: Canned) -> Iterator[Script]:
    """Send these replies in order, repeating the last one, whatever the requests."""
    queue, asked, lock = deque(replies), list[Asked](), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with lock:
                asked.append(Asked(self.command, self.path, headers, content))
                said = queue.popleft() if len(queue) > 1 else queue[0]
            self.send_response_only(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            if said.date:
                self.send_header("Date", said.date)
            if "Content-Length" not in said.headers and said.status != 204:
                self.send_header("Content-Length", str(len(said.content)))
            self.end_headers()
            self.wfile.write(said.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield Script(f"http://127.0.0.1:{server.server_port}", asked)
        finally:
            server.shutdown()
            thread.join()
