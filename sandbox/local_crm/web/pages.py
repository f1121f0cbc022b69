"""Pages of the local CRM for a marketer: segments, profiles and their history, and runs."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from flask import Flask, Response, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.wrappers import Response as WerkzeugResponse

from sandbox.local_crm.requests import Desk, reply
from sandbox.local_crm.store.queries import Views, group_writes
from sandbox.local_crm.store.segments import SEGMENTS

PAGE_SIZE = 50
RUNS_AT_HOME = 8
_RUN_ID = re.compile(r"(\d{8,})-(\d{8}T\d{6}Z)-[0-9a-f]{8}")


@dataclass(frozen=True)
class Paged:
    """The reader's position in a list."""

    count: int
    page: int
    pages: int

    @property
    def offset(self) -> int:
        """The number of rows before this page."""
        return (self.page - 1) * PAGE_SIZE


def add_pages(app: Flask, desk: Desk, programs: tuple[str, ...]) -> None:
    """Add the pages and error pages to the app. Below the paths of `programs`, errors are JSON."""
    app.add_template_filter(_when, "when")
    app.add_template_filter(_run_name, "run_name")
    app.context_processor(lambda: {"now": desk.store.now(), "is_standing": desk.store.stands_at() is not None})
    _add_marketing(app, desk.store)
    _add_runs(app, desk.store)

    @app.errorhandler(HTTPException)
    def friendly(error: HTTPException) -> tuple[str | Response, int]:
        code, text = error.code or 500, error.description or error.name
        if request.path.startswith(programs):
            return reply(code, message=text), code
        return render_template("error.html", code=code, text=text), code


def _add_marketing(app: Flask, views: Views) -> None:
    @app.get("/")
    def home() -> str:
        counts = views.segment_counts()
        return render_template(
            "home.html",
            totals=views.totals(),
            segments=[(segment, counts[slug]) for slug, segment in SEGMENTS.items()],
            bins=views.probability_bins(),
            reasons=views.voucher_reasons(),
            writes=views.latest_writes(12),
            written=views.writes_per_field(),
            runs=views.runs(RUNS_AT_HOME),
            count_runs=views.count_runs(),
            count_deleted=views.count_deleted(),
        )

    @app.get("/segments/<slug>")
    def segment(slug: str) -> str:
        if slug not in SEGMENTS:
            raise NotFound(f"The segment {slug} does not exist.")
        paged = _paged(views.segment_counts()[slug])
        rows = views.segment(slug, limit=PAGE_SIZE, offset=paged.offset)
        return render_template("segment.html", segment=SEGMENTS[slug], rows=rows, paged=paged)

    @app.get("/profiles")
    def find_profile() -> WerkzeugResponse:
        external_id = request.args.get("external_id", "").strip()
        return redirect(url_for("profile", external_id=external_id) if external_id else url_for("home"))

    @app.get("/profiles/<path:external_id>")
    def profile(external_id: str) -> str:
        attributes = views.profile(external_id)
        if attributes is None:
            raise NotFound(f"No profile has the external id {external_id}.")
        writes = group_writes(views.history(external_id))
        is_over = attributes.get("voucher_eligible") is True and _is_past(
            attributes.get("voucher_valid_until"), views.now()
        )
        return render_template(
            "profile.html", external_id=external_id, attributes=attributes, writes=writes, is_over=is_over
        )


def _add_runs(app: Flask, views: Views) -> None:
    @app.get("/runs")
    def runs() -> str:
        paged = _paged(views.count_runs())
        rows = views.runs(PAGE_SIZE, paged.offset)
        return render_template("runs.html", rows=rows, paged=paged, count_deleted=views.count_deleted())

    @app.get("/runs/<path:run_id>")
    def run(run_id: str) -> str:
        found = views.run(run_id)
        if found is None:
            raise NotFound(f"No run called {run_id} has written here.")
        paged = _paged(views.count_written(run_id))
        rows = views.written_by(run_id, limit=PAGE_SIZE, offset=paged.offset)
        return render_template("run.html", run=found, rows=rows, paged=paged)


def _paged(count: int) -> Paged:
    pages = max(1, math.ceil(count / PAGE_SIZE))
    return Paged(count, min(pages, max(1, request.args.get("page", 1, type=int))), pages)


def _is_past(value: object, now: datetime) -> bool:
    """Whether a moment is over; False for a value that is not a moment."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return False
    return moment.tzinfo is not None and moment <= now


def _run_name(run_id: str) -> str:
    """Show a winback run by epoch and hour, another by its id."""
    found = _RUN_ID.fullmatch(run_id)
    if found is None:
        return run_id
    try:
        began = datetime.fromisoformat(found[2])
    except ValueError:
        return run_id
    return f"Epoch {int(found[1])}, {began.day} {began:%b %H:%M}"


def _when(value: object) -> str:
    """Show a moment to the minute in UTC, and any other value as it is."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return str(value)
    if moment.tzinfo is None:
        return str(value)
    return f"{moment.astimezone(UTC):%d %b %Y, %H:%M} UTC".lstrip("0")
