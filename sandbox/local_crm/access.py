"""Access check of the local CRM: refuses requests that pages of other sites make through a browser on this machine.

A foreign domain that resolves to 127.0.0.1 makes the CRM part of its own site (DNS rebinding). Any page can also post without
reading the reply. So every request must name this machine as its host, and its origin, if it has one, must be our own page.
"""

from __future__ import annotations

import re

from flask import Flask, abort, request

_HERE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE | re.ASCII)


def add_doorkeeper(app: Flask) -> None:
    """Refuse each request that is not addressed to this machine, or that a page of another site makes."""

    @app.before_request
    def look() -> None:
        headers = request.headers
        host = headers.get("Host", "")
        if not _HERE.fullmatch(host):
            abort(403, "This is a local CRM: it answers only to localhost and 127.0.0.1.")
        origins = headers.getlist("Origin")
        # A link on another site may open a page in its own window, but nothing else.
        is_window = headers.get("Sec-Fetch-Dest", "document") == "document"
        is_link = request.method == "GET" and headers.get("Sec-Fetch-Mode") == "navigate" and is_window
        is_other_site = headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"} and not is_link
        if is_other_site or any(origin.lower() != f"http://{host}".lower() for origin in origins):
            abort(403, "Pages of other sites may not use the local CRM.")
