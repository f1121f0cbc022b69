"""What a refusal asks of the sync, by HTTP status. Each CRM adds a table of its own codes, which count more than the status.

Only a status that can be about a row lets a batch be halved. All other 4xx and the redirects are about the request, so every
user would meet them: they stop the run, and no user is set aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

# rows: a row may be at fault, and halving the batch finds it. later: the same request may succeed if repeated.
# person: configuration, credentials or contract; every other batch would meet it too.
Meaning = Literal["rows", "later", "person"]

STATUSES: Mapping[int, Meaning] = {
    400: "rows",  # bad request
    408: "later",  # request time-out
    409: "rows",  # conflict
    413: "rows",  # content too large
    422: "rows",  # unprocessable content
    423: "later",  # locked
    424: "later",  # failed dependency
    425: "later",  # too early
    429: "later",  # too many requests
}
# Words by which the CRMs' own codes name a passing fault: RESOURCE_LOCKED, QUERY_TIMEOUT, ..._DURING_MAINTENANCE.
PASSING_WORDS = frozenset(
    {
        *("busy", "concurrent", "internal", "locked", "maintenance", "migrating", "migration", "overloaded", "retry"),
        *("temporarily", "temporary", "throttled", "timeout", "transient", "unavailable"),
    }
)
_SETTINGS = "Check WINBACK_CRM_URL, WINBACK_CRM_API_KEY and the key's permissions: winback doctor"
_VERSION = "set another version in config/crm.yml, or update winback"
ADVICE: Mapping[int, str] = {
    402: "The CRM wants a payment or a larger plan: see the account's billing page.",
    405: f"The address takes no such request: correct WINBACK_CRM_URL, {_VERSION}.",
    406: f"The CRM has no reply of the wanted type: {_VERSION}.",
    407: "A proxy on the way wants credentials: correct the proxy's settings.",
    410: f"This version of the API was retired: {_VERSION}.",
    411: "Something on the way, such as a proxy, drops the request's length: correct it.",
    414: "The address is too long for the CRM: shorten max_batch in config/crm.yml.",
    415: f"The CRM does not take this content type: {_VERSION}.",
    421: "This host does not serve the account: correct WINBACK_CRM_URL.",
    426: f"The CRM wants a newer protocol: {_VERSION}.",
    431: "The request's headers are too large: see that WINBACK_CRM_API_KEY is the key alone.",
    451: "The CRM may not serve this account for legal reasons: ask its support.",
}

_GRAVEST: tuple[Meaning, ...] = ("person", "rows", "later")


def meaning_of(status: int) -> Meaning:
    """Return what a status other than 2xx asks of the sync. 5xx is the other side's trouble, 520 to 529 come from gateways."""
    if 300 <= status < 500:
        return STATUSES.get(status, "person")
    return "later"


def meaning_of_code(code: str, codes: Mapping[str, Meaning]) -> Meaning | None:
    """Return what a CRM's code, in lower case, asks of the sync: by the CRM's table, else by its words; None: it says nothing."""
    if code in codes:
        return codes[code]
    return "later" if PASSING_WORDS & set(code.split("_")) else None


def gravest(meanings: Iterable[Meaning | None]) -> Meaning | None:
    """Return the one that decides where several faults are named at once."""
    named = set(meanings)
    return next((each for each in _GRAVEST if each in named), None)


def advice_on(status: int, code: str) -> str:
    """Return what a person can do about a refusal that stops the run."""
    if STATUSES.get(status) == "rows":
        return f"The request is at fault, not a user: {code}. Check the version and the options in config/crm.yml: winback doctor"
    return ADVICE.get(status, _SETTINGS)


def misconfigured(crm: str, codes: Iterable[str]) -> str:
    """Return the text of an error for rows that were refused for the CRM's configuration."""
    return (
        f"{crm} refused users for its configuration: {', '.join(sorted(codes))}. No user was set aside. Correct it, for instance "
        "a property or a permission that was removed: winback doctor"
    )
