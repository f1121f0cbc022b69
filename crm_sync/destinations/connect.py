"""Which CRM do the settings name, how fast may it be spoken to, and may the key be sent to that host at all?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from crm_sync.destination import Destination
from crm_sync.destinations import braze, hubspot, klaviyo, salesforce
from crm_sync.destinations.adapter import Adapter
from crm_sync.destinations.address import LOCAL_HOSTS, address_of
from crm_sync.destinations.transport import RetryBudget
from crm_sync.fields import FieldMapping
from warehouse.errors import ContractError
from warehouse.yaml_files import read_optional_yaml

ADAPTERS: Mapping[str, Adapter] = {each.ADAPTER.name: each.ADAPTER for each in (braze, hubspot, klaviyo, salesforce)}


class _File(BaseModel):
    """`config/crm.yml`: a section for each CRM, every one optional, and every key in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# Each adapter's own options class has a default for every key.
_OPTIONS: dict[str, Any] = {name: (each.options, each.options.model_validate({})) for name, each in ADAPTERS.items()}
CrmFile = create_model("CrmFile", __base__=_File, **_OPTIONS)


def load_options(path: Path) -> BaseModel:
    """Read `config/crm.yml`; where there is none, everything is as the CRMs document it.

    Raises: ContractError with the file and what is wrong in it.
    """
    return read_optional_yaml(path, CrmFile, "CRM options") or CrmFile()


def connect(
    name: str,
    url: str,
    api_key: str,
    options: BaseModel,
    mapping: FieldMapping,
    *,
    more_hosts: tuple[str, ...],
    budget: RetryBudget,
) -> Destination:
    """Connect to the CRM of this name.

    Raises: ContractError when the host is not one that the key may be sent to, or a property is one that the CRM has no name for.
    """
    adapter = ADAPTERS[name]
    check_host(adapter, url, more_hosts)
    check_names(adapter, mapping)
    return adapter.connect(url, api_key, getattr(options, name), budget)


def check_host(adapter: Adapter, url: str, more_hosts: tuple[str, ...]) -> None:
    """Let the key go to the CRM's own hosts, to this machine, and to whatever WINBACK_CRM_HOSTS allows.

    Raises: ContractError.
    """
    address = address_of(url)
    host = address.host if address else ""
    allowed = (*adapter.hosts, *more_hosts)
    if host in LOCAL_HOSTS or any(host.endswith(a) if a.startswith(".") else host == a for a in allowed):
        return
    raise ContractError(
        f"WINBACK_CRM_URL names a host that is none of {adapter.name}'s ({', '.join(adapter.hosts)}), and the key would be sent "
        "to it. Correct it, or allow the host: WINBACK_CRM_HOSTS"
    )


def check_names(adapter: Adapter, mapping: FieldMapping) -> None:
    """See that the CRM can have properties of the mapping's names.

    Raises: ContractError.
    """
    wrong = [name for name in mapping.kinds if not adapter.property_pattern.fullmatch(name)]
    if wrong:
        raise ContractError(
            f"crm_fields.yml: {adapter.name} can have no property called {', '.join(wrong)}; its names must match "
            f"{adapter.property_pattern.pattern}"
        )
