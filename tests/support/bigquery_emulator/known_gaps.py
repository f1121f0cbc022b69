"""Corrects uploads and statements that bqemulator handles differently from BigQuery. Pure functions, for the proxy."""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa

Json = dict[str, Any]

_CREATED = re.compile(
    r"\bcreate\s+(?:or\s+replace\s+)?table\s+(?:if\s+not\s+exists\s+)?(?:`[^`]+`\.?)+\s*\(", re.IGNORECASE
)
_AS_SELECT = re.compile(r"\bas\s*\(?\s*(?:select|with)\b", re.IGNORECASE)


def without_declared_columns(sql: str) -> str:
    """Replace `create table t (columns) as select` by `create table t as select`, the only form that bqemulator parses.

    dbt writes the columns of a contract there, after comparing them with those of the select.
    """
    created = _CREATED.search(sql)
    if not created:
        return sql
    depth, end = 1, created.end()
    while depth and end < len(sql):
        depth += {"(": 1, ")": -1}.get(sql[end], 0)
        end += 1
    rest = sql[end:]
    return sql[: created.end() - 1] + rest if _AS_SELECT.search(rest) else sql


def multipart_parts(content_type: str, body: bytes) -> tuple[Json, bytes]:
    """Split an upload into the job and its file."""
    boundary = content_type.split("boundary=")[1].strip("'\"").encode()
    _, job, file, _ = body.split(b"--" + boundary)
    contents = [part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in (job, file)]
    return json.loads(contents[0]), contents[1]


class Upload:
    """A resumable upload: its job, and the part of the file that has arrived."""

    def __init__(self, job: Json) -> None:
        self.job = job
        self.file = bytearray()

    def take(self, content_range: str, chunk: bytes) -> bool:
        """Add a chunk and return whether the file is complete."""
        span, total = content_range.removeprefix("bytes ").split("/")
        if span != "*":
            start = int(span.split("-")[0])
            self.file[start:] = chunk
        return total != "*" and len(self.file) == int(total)


def refused_for_nulls(rows: pa.Table, fields: list[Json], *, is_declared: bool) -> str | None:
    """Return BigQuery's error about nulls in a file, or None; bqemulator accepts all nulls.

    A nullable column of a file does not fit a required one, unless the job declares the schema. A null in it never fits.
    """
    for name in (f["name"] for f in fields if f.get("mode") == "REQUIRED"):
        if name not in rows.column_names or rows[name].null_count:
            return f"Required field {name} cannot be null"
        if rows.schema.field(name).nullable and not is_declared:
            return f"Provided Schema does not match Table. Field {name} has changed mode from REQUIRED to NULLABLE"
    return None


def in_table_order(rows: pa.Table, fields: list[Json]) -> pa.Table:
    """Return a file's columns in the order of its table, absent ones as nulls, because BigQuery loads Parquet by name."""
    names = [f["name"] for f in fields]
    if not names or set(rows.column_names) - set(names):
        return rows
    nulls = pa.nulls(rows.num_rows)
    return pa.table({n: rows[n] if n in rows.column_names else nulls for n in names})
