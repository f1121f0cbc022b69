"""Comments of a YAML file by the key that they explain."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import yaml

Place = tuple[str, ...]


def comments_of(path: Path) -> dict[Place, str]:
    """Return the comment of each key, by the key's place in the file.

    A comment belongs to the key on its line. A block of comments belongs to the key right below it, unless a blank line or a
    comment on that key's own line says otherwise.
    """
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    found: dict[Place, str] = {}
    for place, line in _keys(yaml.compose(text, yaml.SafeLoader), ()):
        if place not in found and (comment := _beside(lines, line) or _above(lines, line)):
            found[place] = comment
    return found


def _keys(node: yaml.Node | None, place: Place) -> Iterator[tuple[Place, int]]:
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        for key, value in node.value:
            yield (*place, key.value), key.start_mark.line
            yield from _keys(value, (*place, key.value))


def _beside(lines: list[str], line: int) -> str:
    """Return the comment on the line, with the lines that go on below it."""
    found = re.search(r"(?:^|\s)#\s?(.*)$", re.sub(r"\"[^\"]*\"", lambda m: "_" * len(m[0]), lines[line]))
    if not found:
        return ""
    column, words = lines[line].rindex(found[1]) if found[1] else 0, [found[1]]
    for below in lines[line + 1 :]:
        if not re.match(r"\s*#", below) or below.index("#") < column - 4:
            break
        words.append(below.lstrip(" #"))
    return " ".join(words).strip()


def _above(lines: list[str], line: int) -> str:
    indent = len(lines[line]) - len(lines[line].lstrip())
    words: list[str] = []
    for above in reversed(lines[:line]):
        if not re.match(rf" {{{indent}}}#", above):
            break
        words.insert(0, above.strip())
    is_heading = line - len(words) <= 1  # the comment at the top is about the whole file
    # What is indented within a comment is an example, not a sentence.
    sentences = takewhile(lambda each: not each.startswith("#  "), words)
    return "" if is_heading else " ".join(each.lstrip("# ") for each in sentences).strip()
