"""Description of a CRM for the rest of winback: one Adapter, at the end of each CRM's file."""

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


# Each is looked at before each request; a CRM has one a second and one a minute, or one alone.
Limits = Annotated[tuple[Limit, ...], Field(max_length=10)]


class Options(BaseModel):
    """A CRM's section of `config/crm.yml`: how much and how fast. Each CRM's own class sets the documented values as defaults.

    The first of `limits` is the one that the CRM's headers speak of; a header that grants less is heeded, one that grants more is
    not. No limits: as fast as it goes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_batch: Annotated[int, Field(ge=1, le=1_000_000)]
    max_in_flight: Annotated[int, Field(ge=1, le=256)]
    limits: Limits

    @property
    def rate_limits(self) -> list[RateLimit]:
        """The limits, as the pace takes them."""
        return [RateLimit(limit.requests, limit.seconds) for limit in self.limits]


PinnedModel = TypeVar("PinnedModel", bound=Options)


def in_order(options: PinnedModel, first: str, last: str) -> PinnedModel:
    """Return the options where the number called `first` is not above the one called `last`.

    Raises: PydanticCustomError that names both.
    """
    if getattr(options, first) > getattr(options, last):
        context = {"last": last, "at": (first,)}
        raise PydanticCustomError("not_in_order", "must not be above {last}. Correct one of them.", context)
    return options


@dataclass(frozen=True)
class ClientCredentials:
    """What OAuth's client credentials flow takes: RFC 6749, 4.4."""

    client_id: str
    client_secret: str = field(repr=False)


@dataclass(frozen=True)
class Adapter:
    """A CRM: how to connect to it, and what is known of it before.

    `connect` takes the address, the key, the options and the retry budget. `hosts` are those that the key may be sent to, a
    leading dot standing for any host below. `property_pattern` is what its properties may be called, `permissions` what the key
    must be allowed to do. `id_option` names the option that holds the property by which users are found, if one does;
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
    """What `winback doctor` says where a request without users was refused: 400 is the answer to that, the others are not."""
    if refused.http_status == 400:
        return Finding("ok", ok)
    return Finding("failed", f"The CRM answered HTTP {refused.http_status} to a request without users ({refused.code})")


def refused_finding(error: RequestRefusedError, grant: tuple[str, ...]) -> Finding:
    """What `winback doctor` says of a refused request: `grant` is how to allow the key, for where that is missing."""
    return Finding("failed", str(error), grant if error.is_about_the_key else ())
