"""Replies of the local CRM after a fault: errors, malformed, truncated or slow replies."""

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus

from flask import Response

from sandbox.local_crm.faults import Fault
from sandbox.local_crm.http import ConnectionDroppedError

Says = Callable[[int, str], Response]  # a status and a sentence in the shape of a CRM's errors


def told(fault: Fault, says: Says) -> Response:
    """Reply with the fault's status, and with its body, or else the CRM's own message."""
    if fault.body is None:
        response = says(fault.status, fault.message or HTTPStatus(fault.status).phrase)
    else:
        response = _worded(fault.status, fault.body)
    if fault.retry_after is not None:
        response.headers["Retry-After"] = str(fault.retry_after)
    return response


def garbled(fault: Fault) -> Response:
    """Reply with the fault's body, or else a gateway's error page."""
    return _worded(fault.status, "<html><body>Bad gateway</body></html>" if fault.body is None else fault.body)


def cut(response: Response) -> Response:
    """Send half of a reply, then reset the connection."""
    content = response.get_data()

    def half() -> Iterable[bytes]:
        yield content[: len(content) // 2]
        raise ConnectionDroppedError("reset")

    return Response(half(), response.status, response.headers)


def dripping(response: Response, fault: Fault, pause: Callable[[float], object]) -> Response:
    """Send a reply a few bytes at a time."""
    content, size = response.get_data(), fault.bytes

    def pieces() -> Iterable[bytes]:
        for start in range(0, len(content), size):
            if start:
                pause(fault.pause_seconds)
            yield content[start : start + size]

    return Response(pieces(), response.status, response.headers)


def _worded(status: int, body: object) -> Response:
    if isinstance(body, str):
        return Response(body, status, mimetype="text/html")
    return Response(json.dumps(body), status, mimetype="application/json")
