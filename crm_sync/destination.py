"""Interface of a CRM's adapter.

Four response models fit: a reply with an error for each row refused (Braze), one with a result or an error for each row
(HubSpot), and jobs that are asked after until they are done and then tell of their rows (Klaviyo, Salesforce).
docs/destinations.md says how to add a fifth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from core.errors import ContractError, RetryableError, WinbackError
from crm_sync.diff import Change
from crm_sync.field_mapping import Kind

# The key may be wrong or lack a permission; some CRMs hide what a key may not see behind a 404.
OF_THE_KEY = frozenset({401, 403, 404})


@dataclass(frozen=True)
class Outcome:
    """The CRM's own word for one row, or that it has given none (deferred: the row is sent again by the next run).

    `code` is short and countable; `reason` is a sentence of the CRM's without what it quotes (crm_sync/redaction.py).
    """

    kind: Literal["delivered", "rejected", "deferred"]
    http_status: int | None = None
    code: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Finding:
    """What `winback doctor` found out about the CRM. `do` is a sentence, then commands ready to paste, one a line."""

    state: Literal["ok", "warning", "failed", "skipped"]
    says: str
    do: tuple[str, ...] = ()


class BatchRefusedError(WinbackError):
    """The CRM refused the whole batch for what is in it: some row is at fault, and halving finds it.

    `rows` are the code and the reason of each row, by its place in the batch, that the CRM itself named.
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
    """The CRM refused the request for a reason that is not in its rows: every other batch would be refused too.

    `code` is the CRM's own, or the status as http_410.
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
    """The CRM named a fault of configuration in the reply to single rows. `outcomes` are those of the batch, in order.

    Rows with that fault are deferred, none is rejected: they are sent again once a person has corrected it.
    """

    def __init__(self, text: str, outcomes: Sequence[Outcome]) -> None:
        super().__init__(text)
        self.outcomes = list(outcomes)


class UnavailableError(RetryableError):
    """The CRM could not be reached, or did not answer usably, within the retry budget. Nothing is known of the batch.

    `code` says why its rows are deferred: unavailable, throttled, unknown_reply. `has_answered`: there was a reply. `finding` is
    what the doctor says of it where a connection failed.
    """

    def __init__(
        self, text: str, code: str = "unavailable", *, has_answered: bool = False, finding: Finding | None = None
    ) -> None:
        super().__init__(text)
        self.code = code
        self.finding = finding
        self.has_answered = has_answered or code == "unknown_reply"


class DeadlineExceededError(RetryableError):
    """The run has to leave before a wait would be over. `code` says why: deadline or stopped."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class Run(Protocol):
    """What a destination may know of the run that sends. Shared by all its threads."""

    @property
    def run_id(self) -> str:
        """Whose requests these are; goes into the User-Agent."""

    def clock(self) -> float:
        """Seconds of a monotonic clock that all runs of the process share."""

    def sleep(self, seconds: float) -> None:
        """Wait. Raises: DeadlineExceededError at once when the run has to leave before the wait would be over."""

    def check(self) -> None:
        """Raises: DeadlineExceededError when the run has to leave now."""


class Destination(Protocol):
    """A CRM that takes upserts by external id. Methods may be called from several threads at once."""

    @property
    def max_batch(self) -> int:
        """How many users one request may carry."""

    @property
    def max_in_flight(self) -> int:
        """How many batches are worth sending at the same time."""

    def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        """Upsert one batch and return an outcome for each row, in order.

        Raises: BatchRefusedError, UnavailableError, DeadlineExceededError, RequestRefusedError, MisconfiguredError,
        ContractError.
        """

    def erase(self, external_ids: Sequence[str], run: Run) -> list[Outcome]:
        """Have the CRM delete these users; whom it does not know is delivered with the code not_found.

        Raises: as `send`, except BatchRefusedError.
        """

    def examine(self, properties: Mapping[str, Kind], run: Run) -> list[Finding]:
        """Ask, without writing anything, whether the credentials suffice and the properties exist with a fitting type.

        Raises: as `send`.
        """

    def close(self) -> None:
        """Let go of the connections."""
