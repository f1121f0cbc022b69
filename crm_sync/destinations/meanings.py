"""What a refusal asks of the sync, by HTTP status. Each CRM adds a table of its own codes, which count more than the status.

Only a status that can be about a row lets a batch be halved. All other 4xx and the redirects are about the request, so every
user would meet them: they stop the run, and no user is set aside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from crm_sync.destination import OF_THE_KEY

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
        *(
            "busy",
            "concurrency",
            "concurrent",
            "deadlock",
            "internal",
            "locked",
            "maintenance",
            "migrating",
            "migration",
        ),
        *("overload", "overloaded", "retry", "retryable", "temporarily", "temporary", "throttled", "throttling"),
        *("timeout", "transient", "unavailable"),
    }
)
# The same of several words.
PASSING_PHRASES = re.compile(
    r"(?:^|_)(?:bad_gateway|deadline_exceeded|rate_limit(?:s|ed)?|timed_out|time_out|too_many_requests|try_again)(?:_|$)"
)
_STATUS = re.compile("[45][0-9][0-9]")
# Of a row 404 says that its record is not there, of a request that the address or the key is wrong.
_NOT_FOUND = 404
_SETTINGS = "Check WINBACK_CRM_URL, WINBACK_CRM_API_KEY and the key's permissions: winback doctor"
_REQUEST = "The CRM refuses the request, not a user: see its documentation and its status page, and: winback doctor"
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
    return "later" if PASSING_WORDS & set(code.split("_")) or PASSING_PHRASES.search(code) else None


def meaning_of_row(found: Iterable[str], codes: Mapping[str, Meaning], said_status: object = None) -> Meaning:
    """Return what an error of a single row asks of the sync, by the codes `found` in it, else by the HTTP status in it."""
    status = int(text) if _STATUS.fullmatch(text := str(said_status)) else 400
    named = gravest(meaning_of_code(code, codes) for code in found)
    of_status = meaning_of(status)
    if named != "person" and of_status == "later":
        return "later"
    return named or ("rows" if status == _NOT_FOUND else of_status)


def why_later(found: Iterable[str], codes: Mapping[str, Meaning], said_status: object = None) -> str:
    """Return the code of a row's passing fault: the CRM's own, else one for its status."""
    own = next((code for code in found if meaning_of_code(code, codes) == "later"), None)
    return own or {"423": "locked", "408": "timeout", "429": "throttled"}.get(str(said_status), "unavailable")


def gravest(meanings: Iterable[Meaning | None]) -> Meaning | None:
    """Return the one that decides where several faults are named at once."""
    named = set(meanings)
    return next((each for each in _GRAVEST if each in named), None)


def advice_on(status: int, code: str) -> str:
    """Return what a person can do about a refusal that stops the run."""
    if STATUSES.get(status) == "rows":
        return f"The request is at fault, not a user: {code}. Check the version and the options in config/crm.yml: winback doctor"
    return ADVICE.get(status, _SETTINGS if status < 400 or status in OF_THE_KEY else _REQUEST)


def misconfigured(crm: str, codes: Iterable[str]) -> str:
    """Return the text of an error for rows that were refused for the CRM's configuration."""
    return (
        f"{crm} refused users for its configuration: {', '.join(sorted(codes))}. No user was set aside. Correct it, for instance "
        "a property or a permission that was removed: winback doctor"
    )
