"""Findings about the CRM: reachable, key with the needed permissions, properties present. Nothing is written."""

from __future__ import annotations

from contextlib import closing

from core.errors import ContractError
from core.settings import Settings
from crm_sync.deadline import Deadline
from crm_sync.destination import (
    BatchRefusedError,
    DeadlineExceededError,
    Destination,
    RequestRefusedError,
    UnavailableError,
)
from crm_sync.destinations.factory import ADAPTERS
from crm_sync.field_mapping import FieldMapping, load_fields
from jobs.context import open_destination
from jobs.doctor.finding import Finding

_PATIENCE_SECONDS = 20  # a person waits
_RETRY_SECONDS = 2  # short, because a person waits; a run retries for longer


def crm(settings: Settings) -> list[Finding]:
    """Query the CRM; each finding names what to create or to grant."""
    is_elsewhere = settings.crm_url.startswith("https://")
    if (
        is_elsewhere
        and not settings.crm_client_id
        and settings.crm_api_key == Settings.model_fields["crm_api_key"].default
    ):
        do = (f"Set WINBACK_CRM_API_KEY to a key that may do this: {ADAPTERS[settings.crm].permissions}.",)
        says = "WINBACK_CRM_URL is set, and WINBACK_CRM_API_KEY is still the local CRM's"
        return [Finding("CRM", "failed", says, do)]
    try:
        fields = load_fields(settings.config / "crm_fields.yml")
    except ContractError:
        return [Finding("CRM", "skipped", "not checked: crm_fields.yml, which lists the properties, cannot be read")]
    try:
        patience = {"retry_budget_seconds": min(_RETRY_SECONDS, settings.retry_budget_seconds)}
        destination = open_destination(settings.model_copy(update=patience), fields)
    except ContractError as error:
        return [Finding("CRM", "failed", str(error))]
    with closing(destination):
        return _examined(destination, settings, fields)


def _examined(destination: Destination, settings: Settings, fields: FieldMapping) -> list[Finding]:
    try:
        found = destination.examine(fields.kinds, Deadline("doctor", _PATIENCE_SECONDS))
    except BatchRefusedError as refused:
        says = f"the CRM rejected the request: HTTP {refused.http_status}, {refused.code}"
        return [Finding("CRM", "failed", says, ("Check that WINBACK_CRM_URL is the address of this CRM.",))]
    except ContractError as error:
        is_about_the_key = isinstance(error, RequestRefusedError) and error.is_about_the_key
        do = (f"The key must be allowed this: {ADAPTERS[settings.crm].permissions}.",) if is_about_the_key else ()
        return [Finding("CRM", "failed", str(error), do)]
    except (UnavailableError, DeadlineExceededError) as error:
        if isinstance(error, UnavailableError) and error.has_answered:
            return [Finding("CRM", "failed", str(error), ("Try again later, and look at the CRM's status page.",))]
        if isinstance(error, UnavailableError) and error.finding:
            return [Finding("CRM", error.finding.state, error.finding.says, error.finding.do)]
        return [_silent(settings.crm_url.startswith("https://"))]
    return [Finding("CRM", each.state, each.says, each.do) for each in found]


def _silent(is_elsewhere: bool) -> Finding:
    says = "the CRM did not answer"
    if is_elsewhere:
        return Finding("CRM", "failed", says, ("Correct WINBACK_CRM_URL, or look at the CRM's status page.",))
    return Finding("CRM", "warning", says, ("Start the local one, or set WINBACK_CRM_URL:", "winback local-crm"))
