"""Copies the pages into the folder that the site is built from, with links that hold within the site.

The pages of docs/ are written for readers of the repository. Some pages lie outside of docs/; here they get a place beside them.
Needs nothing but the standard library.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

# Pages outside of docs/, and their place in the site.
OUTSIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "examples/loan_applications/README.md": "examples/loan-applications.md",
}
_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def stage(root: Path, target: Path) -> None:
    """Copy every page and picture; the folder is emptied first.

    Raises: ValueError if a page links to a file that is not part of the site.
    """
    shutil.rmtree(target, ignore_errors=True)
    places = {path: target / path.relative_to(root / "docs") for path in (root / "docs").rglob("*") if path.is_file()}
    places |= {root / page: target / place for page, place in OUTSIDE.items()}
    # README.md becomes its folder's first page.
    places = {path: to.with_name("index.md") if to.name == "README.md" else to for path, to in places.items()}
    places[root / "README.md"] = target / "index.md"  # links to it lead home; it is not a page of the site
    for path, to in places.items():
        if path == root / "README.md":
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            to.write_text(_relinked(path, to, places, root / "README.md"), encoding="utf-8")
        else:
            shutil.copyfile(path, to)


def _relinked(path: Path, to: Path, places: dict[Path, Path], root_page: Path) -> str:
    """Return a page whose links lead to the places in the site. Code blocks stay as they are."""

    def relink(link: re.Match[str]) -> str:
        target, _, anchor = link[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        there = Path(os.path.normpath(path.parent / target))
        if there not in places:
            raise ValueError(f"{path.name} links to {target}, which is not part of the site")
        anchor = "" if there == root_page else anchor
        inside = os.path.relpath(places[there], to.parent)
        return f"{link[1]}{inside}{'#' if anchor else ''}{anchor}{link[3]}"

    text, end, parts = path.read_text(encoding="utf-8"), 0, []
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(relink, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(relink, text[end:])])
