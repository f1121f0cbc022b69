"""Braze: upserts, deletions, and the outcome of each row.

POST /users/track, https://www.braze.com/docs/api/endpoints/user_data/post_user_track/. A 201 means accepted, with an error for
each rejected object and a count of the accepted ones. Scores are attributes, never events: repeating an attribute has no effect,
repeating an event has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import Field

from crm_sync.destination import BatchRefusedError, Finding, Outcome, RequestRefusedError, Run, UnavailableError
from crm_sync.destinations.adapter import Adapter, Limit, Limits, Options, empty_request_finding, refused_finding
from crm_sync.destinations.http.rate_limiter import RateLimiter, RateLimitInfo
from crm_sync.destinations.http.reply import Reply, number, retry_after, until
from crm_sync.destinations.http.transport import ResponseParser, RetryBudget, Transport
from crm_sync.destinations.meanings import meaning_of, meaning_of_code
from crm_sync.diff import Change
from crm_sync.field_mapping import Kind
from crm_sync.redaction import redacted, slugify_error

TRACK, DELETE, ATTRIBUTES = "/users/track", "/users/delete", "/custom_attributes"
MAX_DELETES = 50  # ids in one request
MAX_PAGES = 100  # of 50 attributes; protects against a list without end


class BrazeOptions(Options):
    """75 objects per request, 3,000 requests per 3 seconds and workspace: https://www.braze.com/docs/api/api_limits/."""

    max_batch: Annotated[int, Field(ge=1, le=75)] = 75
    max_in_flight: Annotated[int, Field(ge=1, le=256)] = 8
    limits: Limits = (Limit(requests=3_000, seconds=3),)


class Braze:
    """A Destination."""

    def __init__(
        self, url: str, api_key: str, options: BrazeOptions | None = None, budget: RetryBudget | None = None
    ) -> None:
        """Connect to a REST endpoint, for instance https://rest.fra-01.braze.eu."""
        options = options or BrazeOptions()
        self.max_batch, self.max_in_flight = options.max_batch, options.max_in_flight
        headers = {"Authorization": f"Bearer {api_key}"}
        dialect = ResponseParser(heard=heard, refusal=refusal)
        self._transport = Transport(url, headers, RateLimiter(options.rate_limits), budget=budget, dialect=dialect)

    def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        """Send one batch; see Destination."""
        objects = [{"external_id": change.external_id, **change.attributes} for change in batch]
        reply = self._transport.request(run, "POST", TRACK, body={"attributes": objects})
        return verdicts(reply, [change.external_id for change in batch])

    def erase(self, external_ids: Sequence[str], run: Run) -> list[Outcome]:
        """Delete users. Braze returns the number of accepted deletions, not which users it had."""
        outcomes: list[Outcome] = []
        for start in range(0, len(external_ids), MAX_DELETES):
            ids = list(external_ids[start : start + MAX_DELETES])
            try:
                reply = self._transport.request(run, "POST", DELETE, body={"external_ids": ids})
            except BatchRefusedError as refused:
                outcomes += [Outcome("rejected", refused.http_status, refused.code, refused.reason)] * len(ids)
                continue
            deleted = reply.body.get("deleted") if isinstance(reply.body, dict) else None
            if type(deleted) is not int or not 0 <= deleted <= len(ids):
                raise UnavailableError("Braze answered a deletion in an unknown shape.", "unknown_reply")
            code = "not_found" if deleted == 0 else None
            outcomes += [Outcome("delivered", reply.status, code)] * len(ids)
        return outcomes

    def examine(self, properties: Mapping[str, Kind], run: Run) -> list[Finding]:
        """Check that the key may write, with a request that writes nothing, and list the attributes."""
        return [self._may_write(run), self._attributes(properties, run)]

    def _may_write(self, run: Run) -> Finding:
        do = ("In Braze, under Settings, API keys, give the key the permissions users.track and users.delete.",)
        try:
            # Braze refuses a request without an object, but checks the key first.
            verdicts(self._transport.request(run, "POST", TRACK, body={"attributes": []}), [])
        except BatchRefusedError as refused:
            return empty_request_finding(refused, "Braze takes the key for users.track")
        except RequestRefusedError as error:
            return refused_finding(error, do)
        return Finding("ok", "Braze takes the key for users.track")

    def _attributes(self, properties: Mapping[str, Kind], run: Run) -> Finding:
        attributes: list[Any] = []
        path = ATTRIBUTES
        try:
            for _ in range(MAX_PAGES):
                reply = self._transport.request(run, "GET", path)
                page = reply.body.get("attributes") if isinstance(reply.body, dict) else None
                if not isinstance(page, list):
                    return Finding("skipped", "Braze listed its attributes in an unknown shape")
                attributes += page
                following = next_page(reply)
                if following is None:
                    return judged(attributes, properties)
                path = following
        except BatchRefusedError as refused:
            return Finding("skipped", f"Braze does not list its attributes: HTTP {refused.http_status}, {refused.code}")
        except RequestRefusedError as error:
            if not error.is_about_the_key:
                return Finding("failed", str(error))
            do = ("To have them checked, give the key the permission custom_attributes.get.",)
            return Finding("skipped", "Braze does not show this key its attributes", do)
        return Finding("skipped", f"Braze has more than {MAX_PAGES} pages of attributes")

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


def verdicts(reply: Reply, external_ids: Sequence[str]) -> list[Outcome]:
    """Read the outcome of each row from a reply.

    Raises: UnavailableError if the status says success but the body does not: the outcomes are unknown.
    """
    body = reply.body if isinstance(reply.body, dict) else {}
    errors = body.get("errors") or []
    if body.get("message") not in ("success", "queued") or not isinstance(errors, list):
        raise UnavailableError(f"Braze answered HTTP {reply.status} in an unknown shape.", "unknown_reply")
    rejected: dict[int, Outcome] = {}
    for error in errors:
        index = error.get("index") if isinstance(error, dict) else None
        if type(index) is not int or not 0 <= index < len(external_ids) or error.get("input_array") != "attributes":
            raise UnavailableError(
                f"Braze answered HTTP {reply.status} with an error of unknown shape.", "unknown_reply"
            )
        text = error.get("type", "unknown")
        code, reason = slugify_error(text, external_ids[index]), redacted(text, external_ids[index])
        kind: Literal["deferred", "rejected"] = "deferred" if is_passing(text) else "rejected"
        rejected[index] = Outcome(kind, reply.status, code, reason)
    # Braze counts the users it accepted. If the count is not that of all other rows, it is unknown which ones it accepted.
    processed = body.get("attributes_processed", len(external_ids) - len(rejected))
    is_so = type(processed) is int and processed == len(external_ids) - len(rejected)
    rest = Outcome("delivered", reply.status) if is_so else Outcome("deferred", reply.status, "unconfirmed")
    return [rejected.get(index, rest) for index in range(len(external_ids))]


def is_passing(text: object) -> bool:
    """Whether an object's error is temporary, so that sending it again may succeed.

    Braze returns sentences. A sentence counts as temporary only if it is the name of a status or asks to try again later. Single
    words prove nothing.
    """
    words = " ".join(_QUOTED.sub("...", str(text)).split()).strip(" .!").lower()
    if re.fullmatch(r"[a-z]+(_[a-z]+)*", words):
        return meaning_of_code(words, {}) == "later"
    return words in _PASSING or bool(re.search(r"\b(?:try again|retry) later\b", words))


def refusal(reply: Reply) -> tuple[str, str | None]:
    """The code and the redacted sentence of a 4xx."""
    text = reply.body.get("message") if isinstance(reply.body, dict) else None
    return f"http_{reply.status}", redacted(text) if text else None


def heard(reply: Reply) -> RateLimitInfo:
    """Read Braze's rate limit headers: https://www.braze.com/docs/api/api_limits/#monitoring-your-rate-limits."""
    asked = retry_after(reply)
    if asked is None and reply.status == 429:
        # Sources disagree about x-ratelimit-reset: a Unix time, or seconds from now.
        asked = until(reply, "x-ratelimit-retry-after") or until(reply, "x-ratelimit-reset")
    return RateLimitInfo(asked, number(reply, "x-ratelimit-limit"), number(reply, "x-ratelimit-remaining"))


_QUOTED = re.compile(r'"[^"]*"|(?<!\w)\'[^\']*\'|“[^”]*”|`[^`]*`')
# Names of temporary statuses, as a server without a text of its own returns them.
_PASSING = frozenset(
    {status.phrase.lower() for status in HTTPStatus if meaning_of(status) == "later" and status >= 400}
    | {"server error", "server busy", "rate limit exceeded", "timeout"}
)

# Braze's data types that fit our values.
_TYPES: dict[Kind, set[str]] = {
    "number": {"number"},
    "text": {"string"},
    "flag": {"boolean"},
    "time": {"date", "time", "string"},
    "texts": {"array"},
}


def next_page(reply: Reply) -> str | None:
    """The path of the next page from the Link header. Only its query is used, so that it cannot lead to another host."""
    found = re.search(r"<[^<>?]*(\?[^<>\s]*)>\s*;\s*rel=\"?next\b", reply.headers.get("link", ""))
    return ATTRIBUTES + found[1] if found else None


def judged(listed: Sequence[Any], properties: Mapping[str, Kind]) -> Finding:
    """Compare Braze's custom attributes with the expected properties. Braze creates an attribute with its first value."""
    types = {str(each.get("name")): str(each.get("data_type", "")).lower() for each in listed if isinstance(each, dict)}
    wrong = [
        name for name, kind in properties.items() if name in types and not any(t in types[name] for t in _TYPES[kind])
    ]
    if wrong:
        do = (
            "In Braze, under Data Settings, Custom Attributes, correct their data type, or map the fields to others.",
        )
        return Finding("failed", f"Braze holds these attributes with another type: {', '.join(wrong)}", do)
    absent = [name for name in properties if name not in types]
    if absent:
        return Finding("ok", f"Braze will make {len(absent)} attributes with the first delivery: {', '.join(absent)}")
    return Finding("ok", f"Braze has all {len(properties)} attributes with fitting types")


ADAPTER = Adapter(
    name="braze",
    options=BrazeOptions,
    connect=Braze,
    hosts=(".braze.com", ".braze.eu"),
    property_pattern=re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}"),
    permissions="users.track, users.delete",
)
