"""Table of refusals: what the sync does for each HTTP status. Each CRM adds a table of its own codes, which take precedence.

A batch is halved only for a status that can be about a row. All other 4xx and the redirects are about the request and would
affect every user. They stop the run, and no user becomes a dead letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from crm_sync.destination import OF_THE_KEY

# rows: a row may be at fault, and halving the batch finds it. later: the same request may succeed if repeated.
# person: a person must correct configuration, credentials or contract; every other batch would fail too.
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
# Words in the CRMs' own codes that mark a temporary fault: RESOURCE_LOCKED, QUERY_TIMEOUT, ..._DURING_MAINTENANCE.
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
# Phrases that mark a temporary fault.
PASSING_PHRASES = re.compile(
    r"(?:^|_)(?:bad_gateway|deadline_exceeded|rate_limit(?:s|ed)?|timed_out|time_out|too_many_requests|try_again)(?:_|$)"
)
_STATUS = re.compile("[45][0-9][0-9]")
# For a row, 404 means that its record does not exist; for a request, that the address or the key is wrong.
_NOT_FOUND = 404
_SETTINGS = "Check WINBACK_CRM_URL, WINBACK_CRM_API_KEY and the key's permissions: winback doctor"
_REQUEST = "The CRM refuses the request, not a user. See its documentation and its status page, and run: winback doctor"
_VERSION = "set another version in config/crm.yml, or update winback"
ADVICE: Mapping[int, str] = {
    402: "The CRM requires a payment or a larger plan: see the account's billing page.",
    405: f"The address does not accept this request: correct WINBACK_CRM_URL, {_VERSION}.",
    406: f"The CRM cannot reply in the requested type: {_VERSION}.",
    407: "A proxy in between requires credentials: correct the proxy's settings.",
    410: f"This version of the API was retired: {_VERSION}.",
    411: "Something in between, such as a proxy, drops the request's length: correct it.",
    414: "The address is too long for the CRM: shorten max_batch in config/crm.yml.",
    415: f"The CRM does not accept this content type: {_VERSION}.",
    421: "This host does not serve the account: correct WINBACK_CRM_URL.",
    426: f"The CRM requires a newer protocol: {_VERSION}.",
    431: "The request's headers are too large: check that WINBACK_CRM_API_KEY holds only the key.",
    451: "The CRM may not serve this account for legal reasons: ask its support.",
}

_GRAVEST: tuple[Meaning, ...] = ("person", "rows", "later")


def meaning_of(status: int) -> Meaning:
    """Return the meaning of a status other than 2xx. 5xx are faults of the server; 520 to 529 come from gateways."""
    if 300 <= status < 500:
        return STATUSES.get(status, "person")
    return "later"


def meaning_of_code(code: str, codes: Mapping[str, Meaning]) -> Meaning | None:
    """Return the meaning of a CRM's code in lower case: from the CRM's table, else from its words. None: unknown."""
    if code in codes:
        return codes[code]
    return "later" if PASSING_WORDS & set(code.split("_")) or PASSING_PHRASES.search(code) else None


def meaning_of_row(found: Iterable[str], codes: Mapping[str, Meaning], said_status: object = None) -> Meaning:
    """Return the meaning of a single row's error, from the codes `found` in it, else from the HTTP status in it."""
    status = int(text) if _STATUS.fullmatch(text := str(said_status)) else 400
    named = gravest(meaning_of_code(code, codes) for code in found)
    of_status = meaning_of(status)
    if named != "person" and of_status == "later":
        return "later"
    return named or ("rows" if status == _NOT_FOUND else of_status)


def why_later(found: Iterable[str], codes: Mapping[str, Meaning], said_status: object = None) -> str:
    """Return the code of a row's temporary fault: the CRM's own, else one for its status."""
    own = next((code for code in found if meaning_of_code(code, codes) == "later"), None)
    return own or {"423": "locked", "408": "timeout", "429": "throttled"}.get(str(said_status), "unavailable")


def gravest(meanings: Iterable[Meaning | None]) -> Meaning | None:
    """Return the meaning that decides when an error names several faults."""
    named = set(meanings)
    return next((each for each in _GRAVEST if each in named), None)


def advice_on(status: int, code: str) -> str:
    """Return the advice for a refusal that stops the run."""
    if STATUSES.get(status) == "rows":
        return f"The request is at fault, not a user: {code}. Check the version and the options in config/crm.yml: winback doctor"
    return ADVICE.get(status, _SETTINGS if status < 400 or status in OF_THE_KEY else _REQUEST)


def misconfigured(crm: str, codes: Iterable[str]) -> str:
    """Return the error text for rows refused because of the CRM's configuration."""
    return (
        f"{crm} refused users because of its configuration: {', '.join(sorted(codes))}. No user was set aside. Correct it, for "
        "instance a property or a permission that was removed: winback doctor"
    )
