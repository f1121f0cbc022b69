"""Keeps pages of other sites out of the local CRM, which a browser on this machine can reach by any name that leads here.

A name of somebody's that leads to 127.0.0.1 makes the CRM a part of his site (DNS rebinding), and any page can post to it without
reading the answer. So each request must be for this machine by name, and one that names a page must come from our own.
"""

from __future__ import annotations

import re

from flask import Flask, abort, request

_HERE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE | re.ASCII)


def add_doorkeeper(app: Flask) -> None:
    """Refuse each request that is not for this machine, or that a page of another site makes."""

    @app.before_request
    def look() -> None:
        headers = request.headers
        host = headers.get("Host", "")
        if not _HERE.fullmatch(host):
            abort(403, "This is a local CRM: it answers to localhost and 127.0.0.1 alone.")
        origins = headers.getlist("Origin")
        # A link from elsewhere may open a page in a window of its own, but nothing else.
        is_window = headers.get("Sec-Fetch-Dest", "document") == "document"
        is_link = request.method == "GET" and headers.get("Sec-Fetch-Mode") == "navigate" and is_window
        is_other_site = headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"} and not is_link
        if is_other_site or any(origin.lower() != f"http://{host}".lower() for origin in origins):
            abort(403, "Pages of other sites may not use the local CRM.")
