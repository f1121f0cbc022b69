"""What would a marketer see in the CRM: segments, profiles and their history?"""

import math
from collections.abc import Callable
from datetime import UTC, datetime

from flask import Flask, Response, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.wrappers import Response as WerkzeugResponse

from sandbox.crm_store import SEGMENTS, CrmStore, group_writes
from sandbox.crm_wire import message

PAGE_SIZE = 50


def add_pages(app: Flask, store: CrmStore, clock: Callable[[], datetime]) -> None:
    """Add the pages to the app, and friendly words for what is not there."""
    app.add_template_filter(_when, "when")
    app.context_processor(lambda: {"now": clock()})

    @app.get("/")
    def home() -> str:
        counts = store.segment_counts()
        return render_template(
            "home.html",
            totals=store.totals(),
            segments=[(segment, counts[slug]) for slug, segment in SEGMENTS.items()],
            bins=store.probability_bins(),
            reasons=store.voucher_reasons(),
            writes=store.latest_writes(12),
            written=store.writes_per_field(),
        )

    @app.get("/segments/<slug>")
    def segment(slug: str) -> str:
        if slug not in SEGMENTS:
            raise NotFound(f"There is no segment called {slug}.")
        count = store.segment_counts()[slug]
        pages = max(1, math.ceil(count / PAGE_SIZE))
        page = min(pages, max(1, request.args.get("page", 1, type=int)))
        rows = store.segment(slug, limit=PAGE_SIZE, offset=(page - 1) * PAGE_SIZE)
        return render_template(
            "segment.html", segment=SEGMENTS[slug], count=count, rows=rows, page=page, pages=pages, page_size=PAGE_SIZE
        )

    @app.get("/profiles")
    def find_profile() -> WerkzeugResponse:
        external_id = request.args.get("external_id", "").strip()
        return redirect(url_for("profile", external_id=external_id) if external_id else url_for("home"))

    @app.get("/profiles/<path:external_id>")
    def profile(external_id: str) -> str:
        attributes = store.profile(external_id)
        if attributes is None:
            raise NotFound(f"No profile has the external id {external_id}.")
        writes = group_writes(store.history(external_id))
        return render_template("profile.html", external_id=external_id, attributes=attributes, writes=writes)

    @app.errorhandler(HTTPException)
    def friendly(error: HTTPException) -> tuple[str | Response, int]:
        code, text = error.code or 500, error.description or error.name
        if request.path.startswith(("/users/", "/_control/")):
            return message(code, text), code
        return render_template("error.html", code=code, text=text), code


def _when(value: object) -> str:
    """Show a moment to the minute in UTC; whatever is no moment is shown as it came."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return str(value)
    if moment.tzinfo is None:
        return str(value)
    return f"{moment.astimezone(UTC):%d %b %Y, %H:%M} UTC".lstrip("0")
