"""A server that sends scripted bytes per connection, and a clock that advances with each reading, so that nothing sleeps."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from crm_sync.deadline import Deadline

RUN_ID = "00000007-test"
Script = Callable[["Connection"], None]


@dataclass
class Connection:
    """One connection, from the server's side."""

    socket: socket.socket

    def asked(self) -> bytes:
        """Return the next request, which ends in the JSON object that tests send; empty after the client has left."""
        content = b""
        while not content.endswith(b"}"):
            part = self.socket.recv(65_536)
            if not part:
                return b""
            content += part
        return content

    def says(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def drips(self, content: bytes) -> None:
        """Send one byte at a time, repeating the last one, until the client leaves."""
        for byte in itertools.chain(content[:-1], itertools.repeat(content[-1])):
            self.socket.sendall(bytes([byte]))


@dataclass
class Server:
    url: str
    port: int
    connections: list[Connection] = field(default_factory=list)


@contextmanager
def serving(*scripts: Script, wrap: Callable[[socket.socket], socket.socket] = lambda raw: raw) -> Iterator[Server]:
    """Serve each connection with its own script, and further ones with the last. The end of a script closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}", port)

    def serve(raw: socket.socket, script: Script) -> None:
        with suppress(OSError), raw, wrap(raw) as connected:
            script(Connection(connected))

    def accept() -> None:
        for number in itertools.count():
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            # Otherwise a reply may wait for the client's acknowledgement of TLS's session tickets, and closing would drop it.
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.connections.append(Connection(raw))
            script = scripts[min(number, len(scripts) - 1)]
            threading.Thread(target=serve, args=(raw, script), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def answers(*contents: bytes) -> Script:
    """Reply to each request of a connection with the next of these."""

    def script(connection: Connection) -> None:
        for content in contents:
            if connection.asked():
                connection.says(content)
        connection.asked()

    return script


def ok(content: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)


@dataclass
class Ticking:
    """A clock that advances by `step` seconds with each reading."""

    step: float
    now: float = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def hurried(seconds_left: float, clock: Ticking) -> Deadline:
    """A run whose waits take no time except what its clock shows."""
    return Deadline(RUN_ID, seconds_left, clock=clock, wait=lambda _: None)
