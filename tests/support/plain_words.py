"""The words and patterns that this project's prose does without, and the prose of each kind of file.

The list is short English for readers whose first language is another: CONTRIBUTING.md, "How we write".
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FORBIDDEN = re.compile(
    r"""
    \b(?:whom|whoever|whomever|nobody|somebody|everybody|anybody)\b   # a user, a run, a process, no user
    | \b(?:anew|amid|lest|unawares|whence|thereof|alike|besides)\b     # again, during, so that not, as well
    | \b(?:once\ more|as\ ever|need\ not|needs?\ no\b|is\ at\ it)
    | \b(?:told|heard|hears?)\b                                        # logged, returned, reported, received
    | \b(?:narrators?|desk|oracles?|voices?|house|news|rivals?)\b      # private vocabulary
    | \bmend(?:s|ed|ing)?\b                                            # fix, repair
    | \bspoil(?:s|ed|t|ing)?\b
    | \bis\ no\ (?!longer\b|more\b)                                    # is not a
    """,
    re.VERBOSE | re.IGNORECASE,
)


class Passage(NamedTuple):
    """A piece of prose: the line it begins on (1 is the first) and its text."""

    line: int
    text: str


def prose_of(path: Path) -> Iterator[Passage]:
    """The prose of a Python, SQL, YAML, TOML, Markdown or HTML file: what people read in it, not its code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _python(text)
    elif path.suffix in (".md", ".html"):
        for number, line in enumerate(text.splitlines(), start=1):
            yield Passage(number, line)
    elif path.suffix == ".sql":
        for comment in re.finditer(r"--[^\n]*|\{#.*?#\}|/\*.*?\*/", text, re.DOTALL):
            yield from _lines(text.count("\n", 0, comment.start()) + 1, comment.group())
    else:  # YAML and TOML: comments, and values of more than two words
        for number, line in enumerate(text.splitlines(), start=1):
            if "#" in line or line.count(" ") > line.count("  ") + 2:
                yield Passage(number, line)


def _python(text: str) -> Iterator[Passage]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield Passage(token.start[0], token.string)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield from _lines(node.lineno, node.value)


def _lines(first: int, text: str) -> Iterator[Passage]:
    for number, line in enumerate(text.splitlines(), start=first):
        yield Passage(number, line)


def forbidden_in(path: Path) -> list[str]:
    """Each forbidden word of a file as `line: word: passage`."""
    return [
        f"{passage.line}: {found.group().strip()}: {passage.text.strip()[:120]}"
        for passage in prose_of(path)
        for found in FORBIDDEN.finditer(passage.text)
    ]
