"""Translates BigQuery's errors to winback's, with the action that a person must take.

Google's messages may quote rows, so only names of projects, datasets, tables and permissions are kept from a message.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from google.api_core import exceptions as api
from google.auth import exceptions as auth

from core.errors import ContractError, RetryableError, WinbackError


@dataclass(frozen=True)
class Verdict:
    """The error class to raise, and its text."""

    error: type[WinbackError]
    text: str


_NO_CREDENTIALS = Verdict(
    ContractError,
    "No Google credentials were found. On Cloud Run the job's service account is used; on a laptop run: "
    "gcloud auth application-default login",
)
_NO_PERMISSION = Verdict(
    ContractError, "BigQuery refused because a permission is missing. `winback doctor` shows what to grant."
)
_UNREACHABLE = Verdict(RetryableError, "BigQuery could not be reached, or answered with a temporary fault. Run again.")
_UNKNOWN = Verdict(RetryableError, "BigQuery failed with an unknown error. Run `winback doctor` for details.")

# By BigQuery's reason: https://cloud.google.com/bigquery/docs/error-messages
REASONS: dict[str, Verdict] = {
    "accessDenied": _NO_PERMISSION,
    "responseTooLarge": Verdict(ContractError, "A result was too large for BigQuery to return."),
    "billingNotEnabled": Verdict(ContractError, "Billing is not enabled for the project."),
    "blocked": Verdict(ContractError, "BigQuery has blocked the project for some operations. Ask Google's support."),
    "policyViolation": Verdict(ContractError, "A policy of the organisation forbids the operation."),
    "notFound": Verdict(
        ContractError, "A dataset or table is missing. `winback doctor` shows which to create, and how."
    ),
    "quotaExceeded": Verdict(
        RetryableError,
        "A BigQuery quota is used up. Wait until it is renewed or raise it in the console, then run again.",
    ),
    "rateLimitExceeded": Verdict(RetryableError, "Too many requests to BigQuery at once. Run again."),
    "bytesBilledLimitExceeded": Verdict(
        ContractError,
        "A query would read more bytes than WINBACK_BIGQUERY_MAX_BYTES allows, so it was not run and not billed. "
        "If that amount is correct, raise the limit.",
    ),
    "resourcesExceeded": Verdict(RetryableError, "A query needed more resources than BigQuery had for it. Run again."),
    "backendError": _UNREACHABLE,
    "internalError": _UNREACHABLE,
    "jobBackendError": _UNREACHABLE,
    "jobInternalError": _UNREACHABLE,
    "jobRateLimitExceeded": _UNREACHABLE,
    "tableUnavailable": _UNREACHABLE,
    "stopped": Verdict(RetryableError, "The BigQuery job was cancelled. Run again."),
    "invalidQuery": Verdict(
        ContractError, "BigQuery does not accept a query. Check that the tables fit this version of winback."
    ),
    "invalid": Verdict(
        ContractError, "BigQuery does not accept a value. Check that the tables fit this version of winback."
    ),
}

# Reasons by phrase of the message, because dbt passes on Google's text without its reason. First match wins.
_PHRASES = (
    ("bytesBilledLimitExceeded", "limit for bytes billed"),
    ("quotaExceeded", "quota exceeded"),
    ("rateLimitExceeded", "exceeded rate limits"),
    ("accessDenied", "access denied"),
    ("accessDenied", "does not have bigquery."),
    ("backendError", "could not serialize access"),  # two statements changed a table at the same time
    ("backendError", "not found: job"),  # the reply to a load was lost, and the load had not begun
    ("notFound", "not found: dataset"),
    ("notFound", "not found: table"),
    ("billingNotEnabled", "billing has not been enabled"),
    ("backendError", "connection aborted"),
    ("backendError", "connectionpool(host="),
    ("backendError", "max retries exceeded"),
    ("backendError", "internal error occurred"),
)
# Errors of the libraries. OSError is the base class of requests' connection errors.
_GOOGLE_S = (api.GoogleAPIError, auth.GoogleAuthError, OSError)
# A permission such as bigquery.tables.getData, and the project, dataset or table that a message names.
_PERMISSION = re.compile(r"\bbigquery\.[a-z]+\.[a-zA-Z]+\b")
_NAMED = re.compile(r"\b(?:Dataset|Table|Project|Routine) ([a-z][a-z0-9-]{4,62}[:.]?[A-Za-z0-9_$.-]*)")


def reason_in(message: str) -> str | None:
    """Return the reason that matches a message, if any."""
    lowered = message.lower()
    return next((reason for reason, phrase in _PHRASES if phrase in lowered), None)


def named_in(message: str) -> str:
    """Return the table or dataset and the permission in a message, as ` (...)`, or an empty text."""
    found = [*_NAMED.findall(message)[:1], *_PERMISSION.findall(message)[:1]]
    return f" ({', '.join(name.rstrip('.') for name in found)})" if found else ""


def explain_dbt(error: BaseException | None, messages: Iterable[str]) -> WinbackError | None:
    """Return the error to raise for dbt's exception and Google's messages in its results; None if none is recognised.

    Of several recognised faults, the one that a retry cannot fix counts.
    """
    if isinstance(error, _GOOGLE_S):
        return explain(error)
    known = [(REASONS[reason], message) for message in (*messages, str(error)) if (reason := reason_in(message))]
    errors = [verdict.error(verdict.text + named_in(message)) for verdict, message in known]
    return next((e for e in errors if isinstance(e, ContractError)), next(iter(errors), None))


def explain(error: BaseException) -> WinbackError:
    """Return the error to raise for an exception of Google's libraries, of pandas-gbq or of the connection."""
    cause = error.__cause__
    if isinstance(cause, (api.GoogleAPIError, auth.GoogleAuthError)):
        error = cause  # pandas-gbq wraps the client's exception
    if isinstance(error, api.RetryError) and error.cause is not None:
        error = error.cause
    if isinstance(error, auth.DefaultCredentialsError):
        verdict = _NO_CREDENTIALS
    elif isinstance(error, auth.RefreshError):
        verdict = Verdict(ContractError, "The Google credentials have expired or were revoked. Log in again.")
    elif isinstance(error, (auth.TransportError, OSError)):
        verdict = _UNREACHABLE
    else:
        verdict = _of_reason(error)
    return verdict.error(verdict.text + named_in(str(error)))


# Broad reasons, for which the message is more specific.
_BROAD = (None, "invalid", "invalidQuery", "notFound")


def _of_reason(error: BaseException) -> Verdict:
    given = next((d.get("reason") for d in getattr(error, "errors", None) or () if isinstance(d, dict)), None)
    reason = (reason_in(str(error)) if given in _BROAD or given not in REASONS else None) or given
    if reason in REASONS:
        return REASONS[reason]
    if isinstance(error, (api.ServerError, api.TooManyRequests, api.RetryError)):
        return _UNREACHABLE
    if isinstance(error, (api.Forbidden, api.Unauthorized)):
        return _NO_PERMISSION
    if isinstance(error, api.NotFound):
        return REASONS["notFound"]
    return _UNKNOWN


@contextmanager
def explained() -> Iterator[None]:
    """Convert exceptions of BigQuery and its libraries to errors that a person can act on. The original is not chained."""
    try:
        yield
    except _GOOGLE_S as error:
        raise explain(error) from None
    except ValueError as error:
        if not type(error).__module__.startswith("pandas_gbq"):
            raise
        raise explain(error) from None
