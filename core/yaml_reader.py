"""Strict reader of the YAML files that people edit; returns the value and the line of each part.

YAML silently reads some forms as something else: a key given twice, `030` as 24, `1:30` as 90, tags, aliases that multiply,
merged keys. They are rejected with their line. Bytes, depth and size are limited before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 20  # the largest file we ship has 9 KB
MAX_DEPTH = 20  # the deepest file we ship has 5
MAX_NODES = 50_000  # with every alias expanded

_TAG = "tag:yaml.org,2002:"
_PLAIN_NUMBER = re.compile(
    r"[-+]?(0|[1-9][0-9_]*)|[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|[-+]?\.[0-9]+([eE][-+][0-9]+)?"
)
MAX_DIGITS = 18  # of a whole number: fits in 64 bits


class UnreadableError(Exception):
    """A mistake in a file, with what to do about it. `line` counts from 1; `place` is the path of keys to it."""

    def __init__(self, what: str, line: int | None = None, place: Sequence[str | int] = ()) -> None:
        """Store the parts; the caller adds the name of the file."""
        super().__init__(what)
        self.what, self.line, self.place = what, line, tuple(place)


@dataclass(frozen=True)
class Document:
    """The value of a file: dicts with text keys, lists, text, numbers, booleans and None."""

    value: Any
    root: yaml.Node

    def line_of(self, place: Sequence[str | int]) -> int:
        """Return the line of the value at a path of keys and indexes, or of the deepest part that exists."""
        node, line = self.root, self.root.start_mark.line + 1
        for step in place:
            found = next((each for each in _children(node) if each[0] == step), None)
            if found is None:
                break
            _, key, node = found
            line = key.start_mark.line + 1
        return line


class _Loader(yaml.SafeLoader):
    """YAML's usual types, except that dates, `=` and `<<` stay text, because an event may have such a name."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in (_TAG + "timestamp", _TAG + "value", _TAG + "merge")]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_document(path: Path) -> Document:
    """Read one YAML file.

    Raises: UnreadableError for a mistake in the file, OSError if it cannot be opened.
    """
    if not path.is_file():
        if path.is_dir():
            raise UnreadableError("it is a folder. Put a file in its place.")
        if path.exists():
            raise UnreadableError("it is not a regular file. Put a file in its place.")
    with path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UnreadableError(f"it is larger than {MAX_BYTES >> 20} MB. Check that it is the right file.")
    return parse(_decoded(content))


def parse(text: str) -> Document:
    """Parse the text of a file.

    Raises: UnreadableError.
    """
    loader = None
    try:
        _check_events(text)
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            raise UnreadableError("it is empty, or has nothing but comments. Restore its contents.")
        _check_values(root, ())
        return Document(loader.construct_document(root), root)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UnreadableError("a control character that YAML does not allow. Remove it.", line) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UnreadableError(_problem(error), mark.line + 1 if mark else None) from None
    finally:
        if loader is not None:
            loader.dispose()


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableError("it is UTF-16. Save it as UTF-8.", 1)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError("it is not UTF-8. Save it as UTF-8.", content.count(b"\n", 0, error.start) + 1) from None


def _problem(error: yaml.MarkedYAMLError) -> str:
    """Return what the parser reports. Its text names characters and YAML forms, and never quotes values."""
    problem = error.problem or "it is not YAML"
    if "\\t" in problem:
        return "a tab where YAML needs spaces. Replace it by spaces."
    if "but found another document" in problem:
        return "a second document begins. Keep one, without lines of ---."
    context = f"{error.context}, " if error.context else ""
    return f"it is not YAML: {context}{problem}. Check brackets, quotes, colons and indentation here and in the line above."


def _check_events(text: str) -> None:
    """Reject what would be costly or surprising to build, in one pass without recursion."""
    sizes: list[int] = [0]  # nodes of each open collection, with aliases expanded
    names: list[str | None] = [None]
    anchors: dict[str, int] = {}
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else None
        tag = getattr(event, "tag", None)
        if tag is not None and tag != "!":
            raise UnreadableError("a tag, which begins with an exclamation mark. Write the plain value.", line)
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.append(1)
            names.append(event.anchor)
            if len(sizes) > MAX_DEPTH + 1:
                raise UnreadableError(f"nested more than {MAX_DEPTH} deep. Check for an open bracket.", line)
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            size, name = sizes.pop(), names.pop()
        elif isinstance(event, yaml.ScalarEvent):
            size, name = 1, event.anchor
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in names:
                raise UnreadableError("an alias that contains itself. Write the value out.", line)
            size, name = anchors.get(str(event.anchor), 1), None
        else:
            continue
        if name is not None:
            anchors[name] = size
        sizes[-1] += size
        if sizes[-1] > MAX_NODES:
            raise UnreadableError(
                f"more than {MAX_NODES:,} values with aliases expanded. Check that it is the right file.", line
            )


def _check_values(node: yaml.Node, place: tuple[str | int, ...]) -> None:
    """Reject duplicate keys, keys that are not text, and numbers that YAML reads as a different value."""
    line = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode) and node.tag in (_TAG + "int", _TAG + "float"):
        if not _PLAIN_NUMBER.fullmatch(node.value):
            raise UnreadableError(
                "not a plain number. Write digits and a decimal point, or quote it if it is text.", line, place
            )
        if node.tag == _TAG + "int" and len(node.value) > MAX_DIGITS:
            raise UnreadableError(f"a number of more than {MAX_DIGITS} digits. Write a smaller one.", line, place)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UnreadableError("a key that is a list or a mapping. Write a name.", line, place)
            if key.tag != _TAG + "str":
                raise UnreadableError("a key that YAML does not read as text. Put it in quotes.", line, place)
            if key.value == "<<":
                raise UnreadableError("keys merged from elsewhere (<<). Write the values out.", line, place)
            if key.value in lines:
                raise UnreadableError(
                    f"given twice; the first is in line {lines[key.value]}. Keep one.", line, (*place, key.value)
                )
            lines[key.value] = line
    for step, _, child in _children(node):
        _check_values(child, (*place, step))


def _children(node: yaml.Node) -> Iterator[tuple[str | int, yaml.Node, yaml.Node]]:
    """Yield each part of a collection with its key or index and the node that has its line."""
    if isinstance(node, yaml.MappingNode):
        yield from ((key.value, key, value) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        yield from ((index, value, value) for index, value in enumerate(node.value))
