"""Adapter: describes a CRM to the rest of winback. Each CRM's file ends with one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from crm_sync.destination import BatchRefusedError, Destination, Finding, RequestRefusedError
from crm_sync.destinations.http.rate_limiter import RateLimit
from crm_sync.destinations.http.transport import RetryBudget


class Limit(BaseModel):
    """At most `requests` in any `seconds`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: Annotated[int, Field(ge=1, le=1_000_000)]
    seconds: Annotated[float, Field(gt=0, le=86_400)]


# All of them are checked before each request. A CRM has one limit, or one per second and one per minute.
Limits = Annotated[tuple[Limit, ...], Field(max_length=10)]


class Options(BaseModel):
    """A CRM's section of `config/crm.yml`: batch sizes and rates. Each CRM's own class sets the documented values as defaults.

    The CRM's headers report the first of `limits`. A header with a lower limit is applied, one with a higher limit is ignored.
    Without limits, requests are not throttled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_batch: Annotated[int, Field(ge=1, le=1_000_000)]
    max_in_flight: Annotated[int, Field(ge=1, le=256)]
    limits: Limits

    @property
    def rate_limits(self) -> list[RateLimit]:
        """The limits in the form that the rate limiter takes."""
        return [RateLimit(limit.requests, limit.seconds) for limit in self.limits]


PinnedModel = TypeVar("PinnedModel", bound=Options)


def in_order(options: PinnedModel, first: str, last: str) -> PinnedModel:
    """Return the options if the number `first` is not above the number `last`.

    Raises: PydanticCustomError with both names.
    """
    if getattr(options, first) > getattr(options, last):
        context = {"last": last, "at": (first,)}
        raise PydanticCustomError("not_in_order", "must not be above {last}. Correct one of them.", context)
    return options


@dataclass(frozen=True)
class ClientCredentials:
    """Credentials of OAuth's client credentials flow: RFC 6749, 4.4."""

    client_id: str
    client_secret: str = field(repr=False)


@dataclass(frozen=True)
class Adapter:
    """A CRM: how to connect to it, and its fixed properties.

    `connect` takes the address, the key, the options and the retry budget. The key may be sent to `hosts` only; a leading dot
    stands for any subdomain. `property_pattern` is the pattern of valid property names, `permissions` the rights that the key
    needs. `id_option` names the option with the property that identifies users, if the CRM has one.
    `takes_client_credentials`: the key may be ClientCredentials.
    """

    name: str
    options: type[Options]
    connect: Callable[[str, Any, Any, RetryBudget], Destination]
    hosts: tuple[str, ...]
    property_pattern: re.Pattern[str]
    permissions: str
    id_option: str | None = None
    takes_client_credentials: bool = False


def empty_request_finding(refused: BatchRefusedError, ok: str) -> Finding:
    """The result of `winback doctor` when a request without users was refused. Status 400 is expected, any other is a fault."""
    if refused.http_status == 400:
        return Finding("ok", ok)
    return Finding("failed", f"The CRM answered HTTP {refused.http_status} to a request without users ({refused.code})")


def refused_finding(error: RequestRefusedError, grant: tuple[str, ...]) -> Finding:
    """The result of `winback doctor` for a refused request. `grant` tells how to give the key a missing permission."""
    return Finding("failed", str(error), grant if error.is_about_the_key else ())
