"""How does a request reach a CRM, and what does its reply ask of us: go on, try again, or stop?"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

from crm_sync.destination import BatchRefusedError, UnavailableError
from warehouse.errors import ContractError, WinbackError

TIMEOUT_SECONDS = (5.0, 30.0)  # to connect, to read
MAX_WAIT_SECONDS = 60.0
# A status says what to do. Any 5xx is the other side's trouble (520 to 529 come from gateways) and may pass; any other
# 4xx is a refusal of what was sent: trying the same again cannot help.
TRY_AGAIN = {408, 425, 429}
STOP = {401, 403, 404}


class PassingFault(WinbackError):  # noqa: N818 - it is an order to try again, not an error anyone sees
    """The request may succeed if repeated. `wait_seconds` is what the server asked for."""

    def __init__(self, why: str, wait_seconds: float | None = None) -> None:
        super().__init__(why)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class Reply:
    """A reply that was a success by its status; the body is what the destination must judge."""

    status: int
    body: dict[str, Any]


@dataclass
class RateLimit:
    """At most `count` requests in any `seconds`: a sliding window, shared by whoever shares the object."""

    count: int
    seconds: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _sent: deque[float] = field(default_factory=deque)

    def wait(self) -> None:
        """Return when the next request may go out."""
        while True:
            now = self.clock()
            # The same sum as below: with another one, rounding could leave nothing to wait for and nothing to pop.
            while self._sent and self._sent[0] + self.seconds <= now:
                self._sent.popleft()
            if len(self._sent) < self.count:
                self._sent.append(now)
                return
            self.sleep(self._sent[0] + self.seconds - now)


@dataclass(frozen=True)
class RetryBudget:
    """How long one request may be tried again, in seconds over all its attempts."""

    seconds: float = 120.0
    first_wait_seconds: float = 0.5
    sleep: Callable[[float], None] = time.sleep


class Transport:
    """Posts JSON. Certificates are verified, redirects are not followed, and no reply is waited for without end."""

    def __init__(self, url: str, headers: dict[str, str], limit: RateLimit, budget: RetryBudget | None = None) -> None:
        """Keep one connection open to `url` (scheme and host)."""
        self._url = url.rstrip("/")
        self._limit = limit
        self._budget = budget or RetryBudget()
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy and no .netrc credentials from the environment
        self._session.headers.update(headers)

    def post(self, path: str, body: dict[str, Any]) -> Reply:
        """Post until the server has answered with a success or a refusal.

        Raises: BatchRefusedError, UnavailableError after the retry budget, ContractError for credentials and redirects.
        """
        budget = self._budget
        retrying = Retrying(
            retry=retry_if_exception_type(PassingFault),
            wait=_wait(budget),
            stop=stop_before_delay(budget.seconds),
            sleep=budget.sleep,
            reraise=True,
        )
        try:
            return retrying(self._post_once, path, body)
        except PassingFault as fault:
            raise UnavailableError(f"The CRM did not take the request within {budget.seconds:g} s: {fault}") from None

    def _post_once(self, path: str, body: dict[str, Any]) -> Reply:
        self._limit.wait()
        try:
            reply = self._session.post(self._url + path, json=body, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        except requests.exceptions.InvalidURL:
            raise ContractError("WINBACK_CRM_URL is no address that a request could be sent to.") from None
        except requests.RequestException as error:
            # Only the kind: the text of these errors holds addresses and sometimes parts of the request.
            raise PassingFault(type(error).__name__) from None
        if reply.status_code in TRY_AGAIN or reply.status_code >= 500:
            raise PassingFault(f"HTTP {reply.status_code}", _asked_wait(reply))
        if reply.status_code in STOP or 300 <= reply.status_code < 400:
            raise ContractError(
                f"The CRM answered HTTP {reply.status_code} to {path}. "
                "Check WINBACK_CRM_URL, WINBACK_CRM_API_KEY and the key's permissions."
            )
        if reply.status_code >= 400:
            raise BatchRefusedError(reply.status_code, f"http_{reply.status_code}")
        try:
            content = reply.json()
        except (ValueError, RecursionError):  # not JSON, a number too long for Python, nested too deeply
            raise PassingFault(f"HTTP {reply.status_code} without JSON") from None
        if not isinstance(content, dict):
            raise PassingFault(f"HTTP {reply.status_code} with JSON of another shape")
        return Reply(reply.status_code, content)


def _wait(budget: RetryBudget) -> Callable[[RetryCallState], float]:
    backoff = wait_random_exponential(multiplier=budget.first_wait_seconds, max=MAX_WAIT_SECONDS)

    def wait(state: RetryCallState) -> float:
        fault = state.outcome.exception() if state.outcome else None
        asked = fault.wait_seconds if isinstance(fault, PassingFault) else None
        # What the server asks for is never shortened. A wait of nothing, or one that is over, is none: else we would hammer.
        return asked if asked is not None and asked > 0 else float(backoff(state))

    return wait


def _asked_wait(reply: requests.Response) -> float | None:
    """Seconds the server asks to wait: Retry-After in seconds or as a date (RFC 9110 10.2.3), or Braze's reset."""
    asked = reply.headers.get("Retry-After") or reply.headers.get("X-Ratelimit-Retry-After")
    reset = reply.headers.get("X-RateLimit-Reset")
    now = _server_time(reply)
    try:
        if asked:
            return float(asked) if asked.strip().isdigit() else (parsedate_to_datetime(asked) - now).total_seconds()
        if reset and reply.status_code == 429:
            # Sources differ: an epoch second, or seconds from now. 1e9 was in 2001.
            return float(reset) - now.timestamp() if float(reset) > 1e9 else float(reset)
    except (ValueError, TypeError):
        return None
    return None


def _server_time(reply: requests.Response) -> datetime:
    """The server's own clock, so that a wrong clock here does not change the wait; ours where it sends none."""
    try:
        return parsedate_to_datetime(reply.headers["Date"])
    except (KeyError, ValueError, TypeError):
        return datetime.now(UTC)
