"""Mapping of winback's fields to the CRM's properties."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.config_file import read_yaml
from warehouse.tables import CRM_STATE

# Sent together with a change. A difference in these alone is not a change.
METADATA_FIELDS = ("churn_scored_at", "churn_model_version")

# Type of a property's value. `texts` is a list of text.
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

# Names that select the profile to write: a field sent under such a name could change another user's profile.
IDENTIFIERS = {"external_id", "user_alias", "braze_id", "email", "phone", "phone_number", "id", "hs_object_id"}
# The CRMs' names for a user's subscription state, in lower case. Only users themselves may change it, never a score.
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
    """The CRM's property to which a field is written."""

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
            raise ValueError("two fields are written to the same property")
        if identifiers := IDENTIFIERS & set(names):
            raise ValueError(f"a field is written to a property that identifies a user: {sorted(identifiers)}")
        if subscriptions := SUBSCRIPTIONS & set(names):
            raise ValueError(f"a field is written to a property of users' subscriptions: {sorted(subscriptions)}")
        return self

    @property
    def kinds(self) -> dict[str, Kind]:
        """Type of the value of each of the CRM's properties."""
        return {target.property: KINDS[field] for field, target in self.fields.items()}


def load_fields(path: Path) -> FieldMapping:
    """Read the mapping.

    Raises: ContractError with the file and the fault in it.
    """
    return read_yaml(path, FieldMapping, "field mapping")
