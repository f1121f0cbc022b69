"""Diagrams of the pages, drawn as SVG from boxes on a grid and arrows between them.

Drawn here and not by a library in the reader's browser: the site loads nothing from another host, and the repository shows the
same picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 196, 66  # of a box
GAP_X, GAP_Y, MARGIN = 46, 44, 6


@dataclass(frozen=True)
class Box:
    """A box: its place on the grid (columns and rows from 0), a title and lines of small text."""

    column: float
    row: float
    title: str
    lines: tuple[str, ...] = ()
    fill: str = "#eef3fb"

    @property
    def x(self) -> float:
        """Left edge."""
        return MARGIN + self.column * (WIDTH + GAP_X)

    @property
    def y(self) -> float:
        """Upper edge."""
        return MARGIN + self.row * (HEIGHT + GAP_Y)


@dataclass(frozen=True)
class Diagram:
    """Boxes by name, arrows from one name to another, and what the diagram shows, for screen readers."""

    shows: str
    boxes: dict[str, Box]
    arrows: tuple[tuple[str, str], ...]


OUTSIDE, STEP, STORE = "#fdf3e1", "#eef3fb", "#eaf6ec"

DIAGRAMS = {
    "run": Diagram(
        "One run: app events, features, score, decide, commit, audience, sync, CRM",
        {
            "app": Box(0, 0, "App events", ("raw.app_events, raw.users",), OUTSIDE),
            "features": Box(1, 0, "1 Features", ("dbt: sessions, exits,", "features")),
            "score": Box(2, 0, "2 Score", ("XGBoost: churn", "probability")),
            "decide": Box(2, 1, "3 Decide", ("risk, consent, holdout,", "cool-down, budget")),
            "commit": Box(1, 1, "4 Commit", ("one row for the epoch:", "ops.runs"), STORE),
            "audience": Box(0, 1, "5 Audience", ("dbt: desired state, and", "what differs from the CRM")),
            "sync": Box(0, 2, "6 Sync", ("what differs, withdrawals", "first: ops.deliveries")),
            "crm": Box(1, 2, "CRM", ("nine fields per user",), OUTSIDE),
            "report": Box(2, 2, "7 Report", ("counts that add up:", "ops.reports"), STORE),
        },
        (
            ("app", "features"),
            ("features", "score"),
            ("score", "decide"),
            ("decide", "commit"),
            ("commit", "audience"),
            ("audience", "sync"),
            ("sync", "crm"),
            ("crm", "report"),
        ),
    ),
    "training": Diagram(
        "From matured exits to a champion: split, leak screen, fit, calibration, bundle, registry, evaluate, promote",
        {
            "examples": Box(0, 0, "Matured exits", ("without a voucher",), OUTSIDE),
            "split": Box(1, 0, "Split", ("by time and by user",)),
            "screen": Box(2, 0, "Leak screen", ("each feature alone",)),
            "fit": Box(2, 1, "Search and fit", ("a few settings,", "early stopping")),
            "calibrate": Box(1, 1, "Calibration", ("if it helps",)),
            "bundle": Box(0, 1, "Bundle and card", ("challenger in the", "registry"), STORE),
            "evaluate": Box(0, 2, "winback evaluate", ("later exits than both",)),
            "promote": Box(1, 2, "winback promote", ("if the verdict is better",)),
            "champion": Box(2, 2, "Champion", ("the hourly run uses it;", "winback rollback goes back"), STORE),
        },
        (
            ("examples", "split"),
            ("split", "screen"),
            ("screen", "fit"),
            ("fit", "calibrate"),
            ("calibrate", "bundle"),
            ("bundle", "evaluate"),
            ("evaluate", "promote"),
            ("promote", "champion"),
        ),
    ),
    "rooms": Diagram(
        "Rooms and who imports them: sandbox, jobs, scoring and crm_sync, training, warehouse, core",
        {
            "sandbox": Box(1, 0, "sandbox/", ("synthetic app, local CRM", "and demo"), OUTSIDE),
            "training": Box(0, 1, "training/", ("examples to a bundle,", "offline")),
            "jobs": Box(1, 1, "jobs/", ("commands and wiring",)),
            "scoring": Box(0, 2, "scoring/", ("features in, decisions", "out; registries")),
            "crm_sync": Box(2, 2, "crm_sync/", ("desired minus", "acknowledged; the CRMs")),
            "warehouse": Box(1, 3, "warehouse/", ("the only door to the", "data")),
            "core": Box(1, 4, "core/", ("errors, settings, files,", "clock, progress"), STORE),
            "dbt": Box(0, 4, "dbt/", ("all feature and audience", "SQL"), STORE),
        },
        (
            ("sandbox", "jobs"),
            ("training", "scoring"),
            ("jobs", "scoring"),
            ("jobs", "crm_sync"),
            ("scoring", "warehouse"),
            ("crm_sync", "warehouse"),
            ("warehouse", "core"),
        ),
    ),
    "personal-data": Diagram(
        "Where personal data goes: raw tables, features, decisions, CRM, model, logs",
        {
            "raw": Box(0, 0, "Raw tables", ("id, profile, events", "of each user"), OUTSIDE),
            "features": Box(1, 0, "Features", ("id, numbers, profile", "fields")),
            "decisions": Box(1, 1, "Decisions", ("id, score, reasons,", "voucher, arm")),
            "crm": Box(1, 2, "CRM", ("external id and nine", "fields, nothing else"), OUTSIDE),
            "model": Box(2, 0, "Model bundle", ("no value of fewer than", "50 users"), STORE),
            "logs": Box(2, 1, "Logs and errors", ("counts and codes, no id,", "no value of a user"), STORE),
            "erasures": Box(0, 1, "Erasures", ("SHA-256 of the id",), STORE),
            "receipts": Box(2, 2, "Delivery log", ("id, state that was sent,", "outcome"), STORE),
        },
        (
            ("raw", "features"),
            ("features", "decisions"),
            ("features", "model"),
            ("decisions", "crm"),
            ("decisions", "logs"),
            ("crm", "receipts"),
            ("raw", "erasures"),
        ),
    ),
}


def svg(diagram: Diagram) -> str:
    """Return the diagram as SVG."""
    boxes = diagram.boxes.values()
    width = max(box.x for box in boxes) + WIDTH + MARGIN
    height = max(box.y for box in boxes) + HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'role="img" font-family="system-ui, sans-serif" fill="#1f2a3d">',
        f"<title>{escape(diagram.shows)}</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#5b6b85"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="#ffffff"/>',
        *(_arrow(diagram.boxes[start], diagram.boxes[end]) for start, end in diagram.arrows),
        *(_box(box) for box in boxes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _box(box: Box) -> str:
    middle, count = box.x + WIDTH / 2, len(box.lines)
    top = box.y + HEIGHT / 2 - 8 * count + 5
    lines = "".join(
        f'<text x="{middle:g}" y="{top + 17 + 15 * number:g}" font-size="13" text-anchor="middle">{escape(line)}</text>'
        for number, line in enumerate(box.lines)
    )
    return (
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{box.fill}" stroke="#9fb0cb"/>'
        f'<text x="{middle:g}" y="{top:g}" font-size="15" font-weight="600" text-anchor="middle">{escape(box.title)}</text>'
        f"{lines}"
    )


def _arrow(start: Box, end: Box) -> str:
    """Draw a line from edge to edge: between the sides in one row, between top and bottom otherwise."""
    if start.row == end.row:
        right = end.column > start.column
        x1, x2 = (start.x + WIDTH, end.x) if right else (start.x, end.x + WIDTH)
        y1 = y2 = start.y + HEIGHT / 2
    else:
        x1, x2 = start.x + WIDTH / 2, end.x + WIDTH / 2
        y1, y2 = start.y + HEIGHT, end.y
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="#5b6b85" stroke-width="1.6" '
        'marker-end="url(#head)"/>'
    )
