"""Transport: sends requests to a CRM, retries them, and classifies replies as success, refusal or reason to stop."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import requests
import urllib3
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from core.errors import ContractError
from crm_sync.destination import (
    BatchRefusedError,
    DeadlineExceededError,
    Finding,
    RequestRefusedError,
    Run,
    UnavailableError,
)
from crm_sync.destinations.http.bodies import ENCODINGS, read_body
from crm_sync.destinations.http.connection import Exchange, TransientError, Wire
from crm_sync.destinations.http.connection_faults import at_fault
from crm_sync.destinations.http.rate_limiter import RateLimiter, RateLimitInfo
from crm_sync.destinations.http.reply import Reply, parse_json, retry_after
from crm_sync.destinations.meanings import Meaning, advice_on, meaning_of
from crm_sync.destinations.unreachable import fault_of

__all__ = ["Network", "Reply", "ResponseParser", "RetryBudget", "TransientError", "Transport"]

TIMEOUT_SECONDS = (5.0, 30.0)  # to connect; between two parts of a request or a reply
MAX_WAIT_SECONDS = 60.0
LEAST_WAIT_SECONDS = 0.1
# Replies of these APIs are much smaller. Salesforce's result files are the largest: 10,000 rows of 300 bytes. A value parsed from
# JSON takes up to 25 times its bytes, in each thread. Lists of properties are the largest JSON, a few MiB.
MAX_REPLY_BYTES = {"json": 16 << 20, "text": 64 << 20}


@dataclass(frozen=True)
class Network:
    """Network settings for a CRM: a file with the authorities trusted for its certificate, and a proxy for https.

    The environment's proxy variables are ignored, because such a proxy would see where the key is sent.
    """

    ca_file: str = ""
    proxy: str = field(default="", repr=False)  # may hold a password


@dataclass(frozen=True)
class RetryBudget:
    """How long one request may be retried, in seconds over all its attempts, and the network settings it uses."""

    seconds: float = 120.0
    first_wait_seconds: float = 0.5
    network: Network = Network()


@dataclass(frozen=True)
class ResponseParser:
    """Reads a CRM's own reply format. Pure functions of a reply.

    The first function reads the rate limit headers. `refusal` reads the code and the redacted reason of a 4xx. `named_rows`
    reads the same for each row that the reply names, by position in the batch. `meaning` is that of the CRM's own code; None:
    the status decides.
    """

    heard: Callable[[Reply], RateLimitInfo] = lambda reply: RateLimitInfo(wait_seconds=retry_after(reply))
    refusal: Callable[[Reply], tuple[str, str | None]] = lambda reply: (f"http_{reply.status}", None)
    meaning: Callable[[Reply], Meaning | None] = lambda reply: None  # noqa: ARG005 - the signature of all
    named_rows: Callable[[Reply], Mapping[int, tuple[str, str | None]]] = lambda reply: {}  # noqa: ARG005 - none named


class Transport:
    """Sends requests from any thread. Certificates are verified, redirects are not followed, every wait is limited."""

    def __init__(
        self,
        url: str,
        headers: dict[str, str],
        pace: RateLimiter,
        *,
        budget: RetryBudget | None = None,
        dialect: ResponseParser | None = None,
    ) -> None:
        """Prepare for requests to `url` (scheme and host). `headers` hold the key. Without an Accept header JSON is requested."""
        self._url = url.rstrip("/")
        self._headers = {"Accept": "application/json"} | headers
        self._pace = pace
        self._budget = budget or RetryBudget()
        self._dialect = dialect or ResponseParser()
        self._local = threading.local()
        self._wires: list[Wire] = []

    def request(
        self,
        run: Run,
        method: str,
        path: str,
        *,
        body: object = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        expects: Literal["json", "text"] = "json",
        answers: frozenset[int] = frozenset(),
    ) -> Reply:
        """Send until the server has answered with a success or a refusal.

        `body` is sent as JSON, `data` as it is. A reply without a body has neither text nor value. Statuses in `answers` are
        returned instead of raised, for instance a 404 that is a valid answer.

        Raises: BatchRefusedError for an unknown 4xx, UnavailableError after the retry budget, DeadlineExceededError if the run
        must end, ContractError for credentials and redirects.
        """
        content = (
            json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
            if body is not None
            else data
        )
        more = {"Content-Type": "application/json"} if body is not None else {}
        request = _Request(method, path, content, {**more, **(headers or {})}, expects, answers)
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, TransientError) and not error.is_lasting),
            wait=_wait(self._budget),
            stop=_stop(self._budget, run),
            sleep=partial(self._sleep, run),
            reraise=True,
        )
        try:
            return retrying(self._once, run, request)
        except TransientError as fault:
            within = "" if fault.is_lasting else f" within {self._budget.seconds:g} s"
            text = f"The CRM did not take the request{within}: {fault}.{_remedy(fault.finding)}"
            raise UnavailableError(text, fault.code, has_answered=fault.has_answered, finding=fault.finding) from None

    def close(self) -> None:
        """Close the connections of all threads."""
        for wire in self._wires:
            wire.close()

    def _wire(self) -> Wire:
        """The connections of this thread. Threads must not share them."""
        found: Wire | None = getattr(self._local, "wire", None)
        if found is None:
            found = self._local.wire = Wire()
            self._wires.append(found)
        return found

    def _sleep(self, run: Run, seconds: float) -> None:
        try:
            run.sleep(seconds)
        except DeadlineExceededError as left:
            raise self._pace.why_left(left, run.clock()) from None

    def _once(self, run: Run, request: _Request) -> Reply:
        self._pace.wait(run, self._budget.seconds)
        heard: RateLimitInfo | None = None
        try:
            reply = self._exchange(run, request)
            heard = self._dialect.heard(reply)
        finally:
            self._pace.heard(heard, run.clock())
        return self._verdict(request, reply, heard)

    def _exchange(self, run: Run, request: _Request) -> Reply:
        """Send one request and read its reply, without cookies, redirects, the environment's proxies or .netrc."""
        wire, network = self._wire(), self._budget.network
        wire.exchange = exchange = Exchange(run, TIMEOUT_SECONDS[1])
        headers = {
            **self._headers,
            **request.headers,
            "User-Agent": f"winback ({run.run_id})",
            "Accept-Encoding": ENCODINGS,
        }
        try:
            asked = requests.Request(request.method, self._url + request.path, headers, data=request.content).prepare()
            response = wire.send(
                asked,
                stream=True,
                timeout=TIMEOUT_SECONDS,
                verify=network.ca_file or True,
                proxies={"https": network.proxy} if network.proxy else {},
            )
            with response:
                content = _body(response, MAX_REPLY_BYTES[request.expects], exchange)
        except requests.exceptions.InvalidURL:
            raise ContractError("WINBACK_CRM_URL is not a valid URL for requests.") from None
        except (OSError, urllib3.exceptions.HTTPError) as error:
            if setting := at_fault(error):
                raise ContractError(setting) from None
            raise fault_of(error, self._url, network.proxy if self._url.startswith("https:") else "") from None
        # Some gateways add a byte order mark.
        text = content.decode("utf-8-sig", errors="replace")
        return Reply(response.status_code, _lower(response.headers), text)

    def _verdict(self, request: _Request, reply: Reply, heard: RateLimitInfo) -> Reply:
        """Classify a reply: return a success, or raise the error that says what the caller must do."""
        status = reply.status
        if 200 <= status < 300 or (status in request.answers and not heard.is_exhausted):
            return self._parsed(request, reply)
        if heard.is_exhausted:
            text = "The CRM's daily limit is used up; a later run sends the rest."
            raise UnavailableError(text, "throttled", has_answered=True)
        parsed = parse_json(reply)
        meaning = self._dialect.meaning(parsed) or meaning_of(status)
        if meaning == "later":
            code = "throttled" if status in (403, 429) else "unavailable"
            raise TransientError(f"HTTP {status}", heard.wait_seconds, code, has_answered=True)
        code, reason = self._dialect.refusal(parsed)
        if meaning == "person":
            text = f"The CRM answered HTTP {status} to {request.path.split('?')[0]}. {advice_on(status, code)}"
            raise RequestRefusedError(text, status, code)
        raise BatchRefusedError(status, code, reason, self._dialect.named_rows(parsed))

    def _parsed(self, request: _Request, reply: Reply) -> Reply:
        if request.expects == "text" or not reply.text:
            # A text that ended with the connection may have been cut off within a row.
            has_end = reply.text.endswith("\n") or {"content-length", "transfer-encoding"} & reply.headers.keys()
            if request.method == "GET" and reply.text and not has_end:
                raise TransientError("a text that may have been cut off", has_answered=True)
            return reply
        parsed = parse_json(reply)
        if parsed.body is None and 200 <= reply.status < 300:
            raise TransientError(f"HTTP {reply.status} without JSON", has_answered=True)
        return parsed


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    content: bytes | None
    headers: Mapping[str, str]
    expects: Literal["json", "text"]
    answers: frozenset[int]


def _remedy(finding: Finding | None) -> str:
    """The remedy as the last sentence of an error, with commands in parentheses."""
    if not finding:
        return ""
    sentence, *commands = finding.do
    return f" {sentence[:-1]} ({', '.join(commands)})." if commands else f" {sentence}"


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _body(response: requests.Response, limit: int, exchange: Exchange) -> bytes:
    """Read the body. If the status is temporary, a broken body is dropped, so that the wait in the headers still counts."""
    try:
        return read_body(response.raw, response.headers.get("Content-Encoding", ""), limit, exchange.look)
    except (TransientError, urllib3.exceptions.HTTPError):
        if response.status_code < 300 or meaning_of(response.status_code) != "later":
            raise
        return b""


def _wait(budget: RetryBudget) -> Callable[[RetryCallState], float]:
    backoff = wait_random_exponential(multiplier=budget.first_wait_seconds, max=MAX_WAIT_SECONDS)

    def wait(state: RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome else None
        asked = fault.wait_seconds if isinstance(fault, TransientError) else None
        # The server's wait is never shortened. A tiny wait, or a time in the past, is ignored to avoid rapid retries.
        return asked if asked is not None and asked >= LEAST_WAIT_SECONDS else float(backoff(state))

    return wait


def _stop(budget: RetryBudget, run: Run) -> Callable[[RetryCallState], bool]:
    """Stop before a wait that would end after the budget, by the run's clock."""
    began = run.clock()
    return lambda state: run.clock() - began + state.upcoming_sleep >= budget.seconds
