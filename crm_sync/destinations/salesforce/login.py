"""Requests to Salesforce with an access token, which OAuth client credentials renew when it expires.

A token expires with its session (by default after 2 hours), so a long run could outlive it. An external client app with the
client credentials flow returns a new one at any time, without a person:
https://help.salesforce.com/s/articleView?id=xcloud.remoteaccess_oauth_client_credentials_flow.htm
"""

from __future__ import annotations

import re
import threading
from typing import Any
from urllib.parse import urlencode

from core.errors import ContractError
from crm_sync.destination import RequestRefusedError, Run, UnavailableError
from crm_sync.destinations.adapter import ClientCredentials
from crm_sync.destinations.http.rate_limiter import RateLimiter
from crm_sync.destinations.http.reply import Reply
from crm_sync.destinations.http.transport import ResponseParser, RetryBudget, Transport
from crm_sync.destinations.meanings import Meaning, advice_on, meaning_of
from crm_sync.destinations.salesforce.errors import is_session_over

TOKEN = "/services/oauth2/token"  # noqa: S105 - an address
_FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
_CODE = re.compile(r"[a-z_]{1,60}")


class Tokens:
    """The access token that all threads share: a fixed one, or one renewed with client credentials."""

    def __init__(self, url: str, key: str | ClientCredentials, budget: RetryBudget | None = None) -> None:
        self._credentials = None if isinstance(key, str) else key
        self._token = key if isinstance(key, str) else ""
        self._lock = threading.Lock()
        dialect = ResponseParser(refusal=_refusal, meaning=_meaning)
        self._transport = Transport(url, {}, RateLimiter(()), budget=budget, dialect=dialect)

    @property
    def can_renew(self) -> bool:
        """Whether the token can be renewed."""
        return self._credentials is not None

    def current(self, run: Run) -> str:
        """Return the token. With client credentials, the first call requests it.

        Raises: ContractError if the credentials are refused, UnavailableError, DeadlineExceededError.
        """
        return self._token or self.renewed(run, "")

    def renewed(self, run: Run, ended: str) -> str:
        """Return a token other than the expired one. The first thread renews it, and later ones get the same token.

        Raises: ContractError if the token cannot be renewed, UnavailableError, DeadlineExceededError.
        """
        if self._credentials is None:
            raise ContractError(
                "Salesforce's access token has expired, and there are no client credentials to renew it."
            )
        with self._lock:
            if self._token == ended:
                self._token = self._asked(run, self._credentials)
            return self._token

    def _asked(self, run: Run, credentials: ClientCredentials) -> str:
        form = {
            "grant_type": "client_credentials",
            "client_id": credentials.client_id,
            "client_secret": credentials.client_secret,
        }
        try:
            reply = self._transport.request(run, "POST", TOKEN, data=urlencode(form).encode(), headers=_FORM)
        except RequestRefusedError as refused:
            raise ContractError(
                f"Salesforce refused an access token: {refused.code}. Check WINBACK_CRM_CLIENT_ID and WINBACK_CRM_CLIENT_SECRET, "
                "that WINBACK_CRM_URL is the org's own domain, and that the app allows the client credentials flow and names a "
                "user for it"
            ) from None
        token = reply.body.get("access_token") if isinstance(reply.body, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token or " " in token:
            raise UnavailableError("Salesforce answered with an access token of unknown shape.", "unknown_reply")
        return token

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


class SignedTransport:
    """A Transport whose requests carry the current token. A request refused because of its token is sent again with a new one."""

    def __init__(self, transport: Transport, tokens: Tokens) -> None:
        self._transport, self._tokens = transport, tokens

    def request(self, run: Run, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any) -> Reply:
        """Send as Transport.request does. Raises the same errors."""
        token = self._tokens.current(run)
        try:
            return self._transport.request(run, method, path, headers=_signed(headers, token), **more)
        except RequestRefusedError as refused:
            if not is_session_over(refused):
                raise
            if not self._tokens.can_renew:
                asked, advice = path.split("?", maxsplit=1)[0], advice_on(401, refused.code)
                text = f"The CRM answered HTTP {refused.http_status} to {asked}. {advice}"
                raise RequestRefusedError(text, 401, refused.code) from None
        renewed = self._tokens.renewed(run, token)
        return self._transport.request(run, method, path, headers=_signed(headers, renewed), **more)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


def _signed(headers: dict[str, str] | None, token: str) -> dict[str, str]:
    return {**(headers or {}), "Authorization": f"Bearer {token}"}


def _refusal(reply: Reply) -> tuple[str, str | None]:
    """OAuth's own code, such as invalid_client: RFC 6749, 5.2."""
    code = reply.body.get("error") if isinstance(reply.body, dict) else None
    return code if isinstance(code, str) and _CODE.fullmatch(code) else f"http_{reply.status}", None


def _meaning(reply: Reply) -> Meaning | None:
    """The meaning of a refused token, which is never about a row."""
    return "person" if meaning_of(reply.status) == "rows" else None
