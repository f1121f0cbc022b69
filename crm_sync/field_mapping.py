"""Mapping of winback's fields to the CRM's properties."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.config_file import read_yaml
from warehouse.tables import CRM_STATE

# They ride along with a change; alone they cause none.
METADATA_FIELDS = ("churn_scored_at", "churn_model_version")

# What a property must be able to hold. `texts` is a list of text.
Kind = Literal["number", "text", "flag", "time", "texts"]
KINDS: dict[str, Kind] = {
    "churn_probability": "number",
    "churn_risk_band": "text",
    "churn_reasons": "texts",
    "churn_scored_at": "time",
    "churn_model_version": "text",
    "is_voucher_eligible": "flag",
    "voucher_reason": "text",
    "voucher_valid_until": "time",
    "experiment_arm": "text",
}

# They say whose profile is written: a field sent under such a name would be written to somebody else's.
IDENTIFIERS = {"external_id", "user_alias", "braze_id", "email", "phone", "phone_number", "id", "hs_object_id"}
# Whether somebody may be written to is theirs to say, never a score's: the CRMs' own names of it, in lower case.
SUBSCRIPTIONS = {
    "email_subscribe",
    "push_subscribe",
    "subscription_groups",
    "subscriptions",
    "hs_email_optout",
    "hs_marketable_status",
    "hs_legal_basis",
    "consent",
    "hasoptedoutofemail",
    "hasoptedoutoffax",
    "donotcall",
}


class Property(BaseModel):
    """Where a field is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    property: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}$")]
    clearable: bool = False


class FieldMapping(BaseModel):
    """`config/crm_fields.yml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    churn_probability_step: Annotated[float, Field(ge=0, le=1)]
    tell_holdout: bool = True
    fields: dict[str, Property]

    @model_validator(mode="after")
    def _maps_every_field_once(self) -> FieldMapping:
        missing, unknown = set(CRM_STATE) - set(self.fields), set(self.fields) - set(CRM_STATE)
        if missing or unknown:
            raise ValueError(f"missing fields: {sorted(missing)}; unknown fields: {sorted(unknown)}")
        names = [p.property.lower() for p in self.fields.values()]
        if len(set(names)) < len(names):
            raise ValueError("two fields are written to one property")
        if identifiers := IDENTIFIERS & set(names):
            raise ValueError(f"a field is written to what identifies a user: {sorted(identifiers)}")
        if subscriptions := SUBSCRIPTIONS & set(names):
            raise ValueError(f"a field is written to what a user subscribes with: {sorted(subscriptions)}")
        return self

    @property
    def kinds(self) -> dict[str, Kind]:
        """What each property of the CRM must be able to hold."""
        return {target.property: KINDS[field] for field, target in self.fields.items()}


def load_fields(path: Path) -> FieldMapping:
    """Read the mapping.

    Raises: ContractError with the file and what is wrong in it.
    """
    return read_yaml(path, FieldMapping, "field mapping")
