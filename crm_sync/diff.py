"""Difference between desired and acknowledged state of each user, and the state after a delivery. Columns in, changes out.

A score that is not finite and a time outside the years of ISO 8601 make their row unsendable: JSON cannot express the first,
and no CRM can read the second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from crm_sync.field_mapping import KINDS, METADATA_FIELDS, FieldMapping, Kind

LIST_SEPARATOR = "; "
# Years of four digits, as in ISO 8601 and in every CRM.
_YEARS = (1, 9999)

Value = str | float | bool | list[str] | None


@dataclass(frozen=True, slots=True)
class Change:
    """The new values of one user's properties in the CRM. None clears a property.

    Times are text in ISO 8601, UTC, to the second. `row` is the index of the user's row in `Changed.states`.
    """

    external_id: str
    attributes: dict[str, Value]
    is_withdrawal: bool = False
    row: int = 0


@dataclass(frozen=True)
class Changed:
    """The changes of some pending rows, in order, and the CRM's state of each row after delivery.

    `states` has the columns user_id, desired_hash, and those of CRM_STATE. `unsendable` are changes without attributes, each with
    the field at fault.
    """

    changes: list[Change]
    states: pa.RecordBatch = field(repr=False)
    unsendable: list[tuple[Change, str]] = field(default_factory=list)


def changes(rows: pa.RecordBatch, mapping: FieldMapping) -> Changed:
    """Compare rows of `crm_pending`. Only fields that differ are sent; a null is sent only for a clearable property.

    A row in which only metadata fields differ is not a change. A row in doubt is sent with every field, because the CRM's values
    are unknown.
    """
    in_doubt = rows.column("is_in_doubt")
    states: dict[str, pa.Array] = {}
    differing: dict[str, pa.Array] = {}
    for name, target in mapping.fields.items():
        desired, acknowledged = rows.column(name), rows.column(f"acknowledged_{name}")
        states[name] = desired if target.clearable else pc.coalesce(desired, acknowledged)
        is_told = pc.or_(pc.is_valid(states[name]), pa.scalar(target.clearable))
        differing[name] = pc.or_(_is_distinct(states[name], acknowledged), pc.and_(in_doubt, is_told))
    is_change = reduce(pc.or_, (flags for name, flags in differing.items() if name not in METADATA_FIELDS))
    at_fault = {
        name: pc.and_(pc.and_(differing[name], is_change), _is_unsendable(states[name], KINDS[name]))
        for name in differing
    }
    is_sent = pc.and_not(is_change, reduce(pc.or_, at_fault.values()))

    attributes: list[dict[str, Value]] = [{} for _ in range(rows.num_rows)]
    for name, target in mapping.fields.items():
        at = pc.indices_nonzero(pc.and_(differing[name], is_sent))
        values = _to_wire(states[name].take(at), KINDS[name])
        for row, value in zip(at.to_pylist(), values, strict=True):
            attributes[row][target.property] = value

    ids, withdrawals = rows.column("user_id").to_pylist(), rows.column("is_withdrawal").to_pylist()
    found, unsendable = (
        [Change(ids[row], attributes[row], withdrawals[row], row) for row in pc.indices_nonzero(flags).to_pylist()]
        for flags in (is_sent, pc.and_not(is_change, is_sent))
    )
    kept = {"user_id": rows.column("user_id"), "desired_hash": rows.column("desired_hash"), **states}
    return Changed(
        found,
        pa.RecordBatch.from_pydict(kept),
        [(change, next(name for name in at_fault if at_fault[name][change.row].as_py())) for change in unsendable],
    )


def _is_distinct(left: pa.Array, right: pa.Array) -> pa.Array:
    """SQL's `is distinct from`."""
    one_is_null = pc.xor(pc.is_null(left), pc.is_null(right))
    return pc.or_(pc.fill_null(pc.not_equal(left, right), False), one_is_null)


def _is_unsendable(values: pa.Array, kind: Kind) -> pa.Array:
    """Whether the value cannot be sent to any CRM; false for a null."""
    if kind == "number":
        flags = pc.invert(pc.is_finite(values))
    elif kind == "time":
        years = pc.year(values)
        flags = pc.or_(pc.less(years, _YEARS[0]), pc.greater(years, _YEARS[1]))
    else:
        return pa.repeat(False, len(values))
    return pc.fill_null(flags, False)


def _to_wire(values: pa.Array, kind: Kind) -> list[Value]:
    if kind == "time":
        values = pc.strftime(values.cast(pa.timestamp("s", tz="UTC"), safe=False), "%Y-%m-%dT%H:%M:%SZ")
    elif kind == "texts":
        values = pc.split_pattern(values, LIST_SEPARATOR)
    plain: list[Value] = values.to_pylist()
    return plain
