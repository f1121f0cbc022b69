"""Interface of a CRM's adapter.

Three response models fit. Braze replies with an error for each refused row. HubSpot replies with a result or an error for each
row. Klaviyo and Salesforce run a job, which is polled until it is done and then lists its rows.
docs/how-to/add-a-destination.md explains how to add a CRM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from core.errors import ContractError, RetryableError, WinbackError
from crm_sync.diff import Change
from crm_sync.field_mapping import Kind

# The key may be wrong or lack a permission. Some CRMs answer 404 for what the key may not see.
OF_THE_KEY = frozenset({401, 403, 404})


@dataclass(frozen=True)
class Outcome:
    """Outcome of one row: delivered or rejected by the CRM, or deferred, so that the next run sends it again.

    `code` is short and countable. `reason` is the CRM's sentence without the values it quotes (crm_sync/redaction.py).
    """

    kind: Literal["delivered", "rejected", "deferred"]
    http_status: int | None = None
    code: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Finding:
    """A result of `winback doctor` about the CRM. `do` is a sentence, then commands to paste, one per line."""

    state: Literal["ok", "warning", "failed", "skipped"]
    says: str
    do: tuple[str, ...] = ()


class BatchRefusedError(WinbackError):
    """The CRM refused the whole batch because of its content: some row is at fault, and halving finds it.

    `rows` are the rows that the CRM itself named: code and reason by position in the batch.
    """

    def __init__(
        self,
        http_status: int,
        code: str,
        reason: str | None = None,
        rows: Mapping[int, tuple[str, str | None]] | None = None,
    ) -> None:
        super().__init__(f"The CRM refused a batch: HTTP {http_status}, {code}")
        self.http_status = http_status
        self.code = code
        self.reason = reason
        self.rows = rows or {}


class RequestRefusedError(ContractError):
    """The CRM refused the request for a reason outside its rows, so it would refuse every other batch too.

    `code` is the CRM's own, or the status in the form http_410.
    """

    def __init__(self, text: str, http_status: int, code: str) -> None:
        super().__init__(text)
        self.http_status = http_status
        self.code = code

    @property
    def is_about_the_key(self) -> bool:
        """Whether the key may be wrong or lack a permission."""
        return self.http_status in OF_THE_KEY


class MisconfiguredError(ContractError):
    """The CRM reported a configuration fault for single rows. `outcomes` are those of the batch, in order.

    Rows with that fault are deferred, not rejected: they are sent again after a person has corrected the fault.
    """

    def __init__(self, text: str, outcomes: Sequence[Outcome]) -> None:
        super().__init__(text)
        self.outcomes = list(outcomes)


class UnavailableError(RetryableError):
    """The CRM gave no usable reply within the retry budget. The outcome of the batch is unknown.

    `code` says why its rows are deferred: unavailable, throttled, unknown_reply. `has_answered`: there was a reply. `finding` is
    the doctor's result when a connection failed.
    """

    def __init__(
        self, text: str, code: str = "unavailable", *, has_answered: bool = False, finding: Finding | None = None
    ) -> None:
        super().__init__(text)
        self.code = code
        self.finding = finding
        self.has_answered = has_answered or code == "unknown_reply"


class DeadlineExceededError(RetryableError):
    """The run must end before a wait would be over. `code` says why: deadline or stopped."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class Run(Protocol):
    """The current run, as a destination sees it. Shared by all its threads."""

    @property
    def run_id(self) -> str:
        """Id of the run; part of the User-Agent header."""

    def clock(self) -> float:
        """Seconds of the monotonic clock that all runs of the process share."""

    def sleep(self, seconds: float) -> None:
        """Wait. Raises: DeadlineExceededError at once if the run must end before the wait would be over."""

    def check(self) -> None:
        """Raises: DeadlineExceededError when the run must end now."""


class Destination(Protocol):
    """A CRM that accepts upserts by external id. Methods may be called from several threads at once."""

    @property
    def max_batch(self) -> int:
        """Maximum number of users in one request."""

    @property
    def max_in_flight(self) -> int:
        """Number of batches to send at the same time."""

    def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        """Upsert one batch and return an outcome for each row, in order.

        Raises: BatchRefusedError, UnavailableError, DeadlineExceededError, RequestRefusedError, MisconfiguredError,
        ContractError.
        """

    def erase(self, external_ids: Sequence[str], run: Run) -> list[Outcome]:
        """Delete these users. Users that the CRM does not have count as delivered, with the code not_found.

        Raises: as `send`, except BatchRefusedError.
        """

    def examine(self, properties: Mapping[str, Kind], run: Run) -> list[Finding]:
        """Check, without writing anything, that the credentials suffice and the properties exist with a fitting type.

        Raises: as `send`.
        """

    def close(self) -> None:
        """Close the connections."""
