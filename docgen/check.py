"""Checks a built site: every link, anchor and file exists, and a page loads nothing from another host.

Needs nothing but the standard library.
"""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# A reader follows these; the browser loads the others by itself.
_FOLLOWED = {("a", "href"), ("link", "href")}
# The theme's script fetches a library from another host when a page has an element of these classes.
_FETCHING = {"mermaid", "glightbox", "pyodide"}
_LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "manifest", "preconnect", "dns-prefetch"}


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.linked: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag's id and addresses."""
        values = {name: value or "" for name, value in attrs}
        self.loaded += [f"https://unpkg.com/{name}" for name in _FETCHING & set(values.get("class", "").split())]
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        for name in ("href", "src", "data", "poster"):
            if not values.get(name):
                continue
            is_link = (tag, name) in _FOLLOWED and not set(values.get("rel", "").split()) & _LOADED_LINKS
            (self.linked if is_link else self.loaded).append(values[name])


def faults(site: Path) -> list[str]:
    """Return a line for each dead link, dead anchor, missing file, and file from another host."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        return [f"{site} holds no page."]
    found = []
    for path, page in pages.items():
        where = path.relative_to(site)
        found += [
            f"{where}: loads {each} from another host"
            for each in page.loaded
            if urlsplit(each).netloc and urlsplit(each).scheme != "data"
        ]
        for address in {*page.linked, *page.loaded}:
            parts = urlsplit(address)
            if parts.netloc or parts.scheme:
                continue
            there = _file(site, path, unquote(parts.path))
            if not there.is_file():
                found.append(f"{where}: {address} leads nowhere")
            elif parts.fragment and there in pages and unquote(parts.fragment) not in pages[there].anchors:
                found.append(f"{where}: {address} has no such anchor")
    return found


def _file(site: Path, page: Path, address: str) -> Path:
    there = page if not address else (site / address.lstrip("/") if address.startswith("/") else page.parent / address)
    there = there.resolve()
    return there / "index.html" if there.is_dir() else there
