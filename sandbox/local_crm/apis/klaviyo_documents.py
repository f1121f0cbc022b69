"""Klaviyo's JSON:API documents, errors and pages: https://developers.klaviyo.com/en/reference/api_overview."""

import base64
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

MEDIA_TYPE = "application/vnd.api+json"
_CODES = {401: "not_authenticated", 404: "not_found", 429: "throttled"}


def says(status: int, text: str, **source: str) -> Response:
    """Return one error, in JSON:API form."""
    code = _CODES.get(status, "invalid" if status < 500 else "error")
    words = {
        "id": f"{status}-{code}",
        "status": status,
        "code": code,
        "title": text.partition(".")[0] + ".",
        "detail": text,
    }
    return _json(status, {"errors": [words | {"source": source}]})


def document(status: int, data: object, **more: object) -> Response:
    """Return a JSON:API document."""
    return _json(status, {"data": data, **more})


def _json(status: int, body: object) -> Response:
    return Response(json.dumps(body), status, content_type=MEDIA_TYPE)


def resource(kind: str, name: str, path: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return a resource with a link to itself."""
    return {"type": kind, "id": name, "attributes": attributes, "links": {"self": request.host_url.rstrip("/") + path}}


def page(items: Sequence[object]) -> Response:
    """Return one page of a collection: page[size] of 1 to 100, default 20, starting at page[cursor]."""
    try:
        size = int(request.args.get("page[size]", 20))
        start = int(decoded(request.args["page[cursor]"])) if "page[cursor]" in request.args else 0
    except ValueError:
        return says(400, "The page is not in this collection.", parameter="page[cursor]")
    if not 1 <= size <= 100 or start < 0:
        return says(400, "The page size must be between 1 and 100.", parameter="page[size]")
    links = {"self": request.url}
    if start + size < len(items):
        query = urlencode({"page[size]": size, "page[cursor]": encoded(str(start + size))})
        links["next"] = f"{request.base_url}?{query}"
    return document(200, items[start : start + size], links=links)


def at(value: object, *keys: str) -> Any:
    """Return the value below `value` at these keys, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def encoded(text: str) -> str:
    """Encode a text as an id of letters, digits, - and _."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decoded(text: str) -> str:
    """Decode the text of such an id. Raises ValueError for an invalid one."""
    return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
