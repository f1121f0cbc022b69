"""Conversion of types and values between Python and GoogleSQL's messages."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from zetasql.wasi._pb2.zetasql.public import type_pb2, value_pb2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KINDS = {
    name: type_pb2.TypeProto(type_kind=kind)
    for name, kind in {
        "STRING": type_pb2.TYPE_STRING,
        "INT64": type_pb2.TYPE_INT64,
        "FLOAT64": type_pb2.TYPE_DOUBLE,
        "BOOL": type_pb2.TYPE_BOOL,
        "DATE": type_pb2.TYPE_DATE,
        "TIMESTAMP": type_pb2.TYPE_TIMESTAMP,
        "NUMERIC": type_pb2.TYPE_NUMERIC,
        "BYTES": type_pb2.TYPE_BYTES,
    }.items()
}
_NAMES = {proto.type_kind: name for name, proto in KINDS.items()}
_OF_PYTHON = {bool: "BOOL", int: "INT64", float: "FLOAT64", str: "STRING", datetime: "TIMESTAMP", date: "DATE"}


def name_of(proto: Any) -> str:
    """Return a type as BigQuery names it."""
    return _NAMES.get(proto.type_kind) or type_pb2.TypeKind.Name(proto.type_kind).removeprefix("TYPE_")


def kind_of(value: Any) -> str:
    """Return the type of a parameter with this value."""
    return _OF_PYTHON[type(value)]


def cell_of(value: Any, kind: str) -> Any:
    """Convert a value to a message; None is null."""
    cell = value_pb2.ValueProto()
    if value is None:
        return cell
    match kind:
        case "TIMESTAMP":
            seconds, micros = divmod((value - _EPOCH) // timedelta(microseconds=1), 1_000_000)
            cell.timestamp_value.seconds, cell.timestamp_value.nanos = seconds, micros * 1_000
        case "DATE":
            cell.date_value = (value - _EPOCH.date()).days
        case "FLOAT64":
            cell.double_value = value
        case "INT64":
            cell.int64_value = value
        case "BOOL":
            cell.bool_value = value
        case _:
            cell.string_value = value
    return cell


def value_of(cell: Any, kind: str) -> Any:
    """Convert a message to a value; times are aware UTC."""
    which = cell.WhichOneof("value")
    if which is None:
        return None
    if which == "timestamp_value":
        stamp = cell.timestamp_value
        return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1_000)
    if which == "date_value":
        return _EPOCH.date() + timedelta(days=cell.date_value)
    return getattr(cell, which)
