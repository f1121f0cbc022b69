"""Creates the destination that the settings name, with its rate limits, and checks that the key may be sent to its host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from core.address import LOCAL_HOSTS, address_of
from core.config_file import read_optional_yaml
from core.errors import ContractError
from crm_sync.destination import Destination
from crm_sync.destinations import braze
from crm_sync.destinations.adapter import Adapter, ClientCredentials
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.destinations.hubspot import client as hubspot
from crm_sync.destinations.klaviyo import client as klaviyo
from crm_sync.destinations.salesforce import client as salesforce
from crm_sync.field_mapping import FieldMapping

ADAPTERS: Mapping[str, Adapter] = {each.ADAPTER.name: each.ADAPTER for each in (braze, hubspot, klaviyo, salesforce)}


class _File(BaseModel):
    """`config/crm.yml`: a section for each CRM. All sections and keys are optional."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# The options class of each adapter has a default for every key.
_OPTIONS: dict[str, Any] = {name: (each.options, each.options.model_validate({})) for name, each in ADAPTERS.items()}
CrmFile = create_model("CrmFile", __base__=_File, **_OPTIONS)


def load_options(path: Path) -> BaseModel:
    """Read `config/crm.yml`. Without the file, the CRMs' documented values apply.

    Raises: ContractError with the file and the fault in it.
    """
    return read_optional_yaml(path, CrmFile, "CRM options") or CrmFile()


def connect(
    name: str,
    url: str,
    key: str | ClientCredentials,
    options: BaseModel,
    mapping: FieldMapping,
    *,
    allowed_hosts: tuple[str, ...],
    budget: RetryBudget,
) -> Destination:
    """Connect to the CRM of this name.

    Raises: ContractError if the key may not be sent to the host, or if the CRM does not accept client credentials. Also if a
    property's name is invalid in the CRM or identifies users there.
    """
    adapter = ADAPTERS[name]
    check_host(adapter, url, allowed_hosts)
    check_names(adapter, mapping)
    check_id_property(adapter, getattr(options, name), mapping)
    if isinstance(key, ClientCredentials) and not adapter.takes_client_credentials:
        raise ContractError(
            f"WINBACK_CRM_CLIENT_ID is set, but {name} accepts only an API key. Unset it and set WINBACK_CRM_API_KEY."
        )
    return adapter.connect(url, key, getattr(options, name), budget)


def check_host(adapter: Adapter, url: str, allowed_hosts: tuple[str, ...]) -> None:
    """Check that the key may be sent to this host: the CRM's own hosts, this machine, and those in WINBACK_CRM_HOSTS.

    Raises: ContractError.
    """
    address = address_of(url)
    host = address.host if address else ""
    allowed = (*adapter.hosts, *allowed_hosts)
    if host in LOCAL_HOSTS or any(host.endswith(a) if a.startswith(".") else host == a for a in allowed):
        return
    raise ContractError(
        f"The host in WINBACK_CRM_URL does not belong to {adapter.name} ({', '.join(adapter.hosts)}), and the key would be sent "
        "to it. Correct the URL, or allow the host: WINBACK_CRM_HOSTS"
    )


def check_names(adapter: Adapter, mapping: FieldMapping) -> None:
    """Check that the mapping's property names are valid in the CRM.

    Raises: ContractError.
    """
    wrong = [name for name in mapping.kinds if not adapter.property_pattern.fullmatch(name)]
    if wrong:
        raise ContractError(
            f"crm_fields.yml: {adapter.name} cannot have a property with the name {', '.join(wrong)}; names must match "
            f"{adapter.property_pattern.pattern}"
        )


def check_id_property(adapter: Adapter, options: BaseModel, mapping: FieldMapping) -> None:
    """Check that no field is written to the property that identifies users: a user would get another user's profile.

    Raises: ContractError.
    """
    id_property = str(getattr(options, adapter.id_option)) if adapter.id_option else ""
    # CRMs ignore case in property names.
    fields = [name for name, target in mapping.fields.items() if target.property.lower() == id_property.lower()]
    if fields:
        raise ContractError(
            f"crm_fields.yml writes {fields[0]} to {id_property}, which identifies the user in {adapter.name}. Map it to another "
            f"property, or set another {adapter.id_option} in config/crm.yml."
        )
