"""Which of our fields goes to which property of the CRM, and what has changed for one user?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from warehouse.tables import CRM_STATE
from warehouse.yaml_files import read_yaml

# They ride along with a change; alone they cause none.
RIDE_ALONG = ("churn_scored_at", "churn_model_version")
LIST_SEPARATOR = "; "
# They say whose profile is written: a field sent under such a name would be written to somebody else's.
IDENTIFIERS = {"external_id", "user_alias", "braze_id", "email", "phone"}

Value = str | float | bool | list[str] | None


class Property(BaseModel):
    """Where a field is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    property: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}$")]
    clearable: bool = False


class FieldMapping(BaseModel):
    """`config/crm_fields.yml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    churn_probability_step: Annotated[float, Field(ge=0, le=1)]
    fields: dict[str, Property]

    @model_validator(mode="after")
    def _maps_every_field_once(self) -> FieldMapping:
        missing, unknown = set(CRM_STATE) - set(self.fields), set(self.fields) - set(CRM_STATE)
        if missing or unknown:
            raise ValueError(f"missing fields: {sorted(missing)}; unknown fields: {sorted(unknown)}")
        names = [p.property for p in self.fields.values()]
        if len(set(names)) < len(names):
            raise ValueError("two fields are written to one property")
        if identifiers := IDENTIFIERS & set(names):
            raise ValueError(f"a field is written to what identifies a user: {sorted(identifiers)}")
        return self


def load_fields(path: Path) -> FieldMapping:
    """Read the mapping.

    Raises: ContractError with the file and what is wrong in it.
    """
    return read_yaml(path, FieldMapping, "field mapping")


@dataclass(frozen=True)
class Change:
    """What to tell the CRM about one user, and what it holds once it has said yes."""

    external_id: str
    desired_hash: str
    is_withdrawal: bool
    attributes: dict[str, Value]
    state: dict[str, Any]

    @property
    def fields_sent(self) -> str:
        """The CRM's names of the attributes sent, without their values."""
        return ",".join(self.attributes)


def change(row: Mapping[str, Any], mapping: FieldMapping) -> Change:
    """Compare a row of `crm_pending`: only what differs is sent, and an absent value only where it may clear."""
    state: dict[str, Any] = {}
    attributes: dict[str, Value] = {}
    for field, target in mapping.fields.items():
        desired, acknowledged = row[field], row[f"acknowledged_{field}"]
        kept = acknowledged if desired is None and not target.clearable else desired
        state[field] = kept
        if kept != acknowledged:
            attributes[target.property] = _to_wire(field, kept)
    if not set(attributes) - {mapping.fields[f].property for f in RIDE_ALONG}:
        attributes, state = {}, {field: row[f"acknowledged_{field}"] for field in mapping.fields}
    return Change(row["user_id"], row["desired_hash"], row["is_withdrawal"], attributes, state)


def _to_wire(field: str, value: Any) -> Value:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    if field == "churn_reasons" and value is not None:
        return list(value.split(LIST_SEPARATOR))
    return value  # type: ignore[no-any-return]
