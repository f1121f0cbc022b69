"""The model card as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

from training.model_card.card import Report, alt, headlines, sections, summary, warnings
from training.model_card.tables import Section

_STYLE = """
:root { color: #22262e; background: #f4f5f7; font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
body { margin: 0; }
main { box-sizing: border-box; max-width: 60rem; margin: 0 auto; padding: 2.5rem; background: #fff; }
header p { margin: 0; max-width: 46rem; }
header p:first-child { color: #5a606b; font-size: .9rem; }
h1 { margin: 0 0 .75rem; font-size: 1.8rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 .5rem; font-size: 1.1rem; }
section p { margin: .4rem 0; max-width: 46rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem; }
ul.tiles { margin: 1.5rem 0; padding: 0; list-style: none; }
.tiles li { display: flex; flex-direction: column; padding: .8rem 1rem; border-radius: .5rem; background: #f4f5f7; }
.tiles strong { color: #00588a; font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tiles b { font-size: .9rem; }
.tiles span { color: #5a606b; font-size: .8rem; }
.mind { margin: .75rem 0; padding: .6rem 1rem; border-left: 4px solid #d55e00; background: #fdf3ec; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1.5rem; margin: 1rem 0; }
img { display: block; width: 100%; max-width: 27rem; height: auto; }
h3 { margin: 1.2rem 0 0; font-size: .95rem; }
.wide { overflow-x: auto; }
table { width: 100%; margin: .75rem 0; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .4rem 1.5rem .4rem 0; border-bottom: 1px solid #e3e6ea; text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; }
td:last-child { width: 100%; padding-right: 0; min-width: 9rem; white-space: normal; }
th { color: #5a606b; font-weight: 600; }
@media (max-width: 40rem) { main { padding: 1.25rem; } h1 { font-size: 1.35rem; } }
@media print { :root, .tiles li { background: #fff; } main { padding: 0; } h2 { break-after: avoid; } }
"""


def as_html(report: Report, version: str, pictures: Mapping[str, bytes]) -> str:
    """Return the card as one HTML page; `pictures` are PNGs by file name."""
    tiles = "".join(
        f"<li><strong>{escape(value)}</strong><b>{escape(name)}</b><span>{escape(note)}</span></li>"
        for name, value, note in headlines(report)
    )
    minds = "".join(f'<p class="mind"><b>Warning:</b> {escape(warning)}</p>' for warning in warnings(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Model {escape(version)}</title><style>{_STYLE}</style></head><body><main>"
        f"<header><p>winback model card</p><h1>{escape(version)}</h1><p>{escape(summary(report))}</p></header>"
        f'<ul class="tiles">{tiles}</ul>{minds}'
        f"{''.join(_section(section, pictures) for section in sections(report, pictures))}</main></body></html>\n"
    )


def _section(section: Section, pictures: Mapping[str, bytes]) -> str:
    text = f"<section><h2>{escape(section.heading)}</h2>" + "".join(f"<p>{escape(p)}</p>" for p in section.paragraphs)
    if section.pictures:
        images = (f'<img alt="{escape(alt(p))}" src="{_inline(pictures[p])}">' for p in section.pictures)
        text += f'<div class="pictures">{"".join(images)}</div>'
    for caption, (head, *rows) in section.tables:
        body = "".join(_row(row, "td") for row in rows)
        text += f"<h3>{escape(caption)}</h3>" if caption else ""
        text += f'<div class="wide"><table><thead>{_row(head, "th")}</thead><tbody>{body}</tbody></table></div>'
    return text + "</section>"


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _row(cells: tuple[str, ...], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
