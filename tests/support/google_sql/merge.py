"""Rewrites a MERGE as a query of the resulting rows, because the reference implementation only analyses MERGE."""

from __future__ import annotations

import re
from collections.abc import Callable

_MERGE = re.compile(
    r"\s*merge\s+into\s+`(?P<target>[^`]+)`\s+as\s+(?P<dest>\w+)\s+using\s+(?P<source>.*?)\s+as\s+(?P<name>\w+)\s+"
    r"on\s+(?P<on>.*?)\s+(?P<whens>when\s+(?:not\s+)?matched.*?);?\s*$",
    re.DOTALL | re.IGNORECASE,
)
_WHEN = re.compile(
    r"when\s+(?P<kind>(?:not\s+)?matched(?:\s+by\s+source)?)(?:\s+and\s+(?P<if>.*?))?\s+then\s+"
    r"(?P<verb>update\s+set|insert|delete)(?P<rest>.*?)(?=\bwhen\s+(?:not\s+)?matched|\Z)",
    re.DOTALL | re.IGNORECASE,
)


def as_query(text: str, columns_of: Callable[[str], list[str]]) -> tuple[str, str]:
    """Return the target's name, and a query of its columns and of each row's result: matched, inserted, kept or deleted."""
    found = _MERGE.match(text)
    assert found, f"a MERGE of another form: {text[:200]}"
    target, dest, source, name, on = (found[part] for part in ("target", "dest", "source", "name", "on"))
    columns = columns_of(target)
    whens = {re.sub(r"\s+", " ", w["kind"].lower()): w for w in _WHEN.finditer(found["whens"])}
    dest_rows = ", ".join(f"{dest}.`{column}`" for column in columns)
    matched = dest_rows
    if when := whens.pop("matched", None):
        assert not when["if"], text
        pairs = [pair.partition("=") for pair in _list(when["rest"])]
        values = {left.strip().strip("`").split(".")[-1].strip("`"): right.strip() for left, _, right in pairs}
        matched = ", ".join(values.pop(column, f"{dest}.`{column}`") for column in columns)
        assert not values, f"the table has no {list(values)}"
    is_matched = f"exists (select 1 from {source} as {name} where {on})"
    parts = [f"select {matched}, 'matched' from `{target}` as {dest} inner join {source} as {name} on {on}"]
    if when := whens.pop("not matched by source", None):
        assert when["verb"].lower() == "delete", text
        condition = when["if"] or "true"
        parts.append(
            f"select {dest_rows}, 'deleted' from `{target}` as {dest} where not {is_matched} and ({condition})"
        )
        is_matched = f"({is_matched} or coalesce({condition}, false))"
    parts.append(f"select {dest_rows}, 'kept' from `{target}` as {dest} where not {is_matched}")
    if when := whens.pop("not matched", None):
        assert not when["if"], text
        inserted = re.match(r"\s*\((.*?)\)\s*values\s*\((.*)\)\s*$", when["rest"], re.DOTALL | re.IGNORECASE)
        assert inserted, text
        given = dict(zip((n.strip().strip("`") for n in _list(inserted[1])), _list(inserted[2]), strict=True))
        values_sql = ", ".join(given.get(column, "null") for column in columns)
        parts.append(
            f"select {values_sql}, 'inserted' from {source} as {name} "
            f"where not exists (select 1 from `{target}` as {dest} where {on})"
        )
    assert not whens, f"a WHEN of another form: {list(whens)}"
    return target, "\nunion all\n".join(parts)


def _list(text: str) -> list[str]:
    """Split at commas; the values that dbt writes contain none."""
    assert "(" not in text, text
    return text.strip().split(",")
