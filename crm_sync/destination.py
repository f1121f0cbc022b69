"""What must a CRM's adapter be able to do?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from crm_sync.fields import Change
from warehouse.errors import RetryableError, WinbackError


@dataclass(frozen=True)
class Outcome:
    """The CRM's own word for one row."""

    kind: Literal["delivered", "rejected"]
    http_status: int | None = None
    error_code: str | None = None


class BatchRefusedError(WinbackError):
    """The CRM refused the whole batch for what is in it: some row is at fault, and halving finds it."""

    def __init__(self, http_status: int, error_code: str) -> None:
        super().__init__(f"The CRM refused a batch: HTTP {http_status}, {error_code}")
        self.http_status = http_status
        self.error_code = error_code


class UnavailableError(RetryableError):
    """The CRM could not be reached, or did not answer usably, within the retry budget. Nothing is known of the batch."""


class Destination(Protocol):
    """A CRM that takes upserts by external id."""

    @property
    def max_batch(self) -> int:
        """How many users one request may carry."""

    def send(self, batch: Sequence[Change]) -> list[Outcome]:
        """Send one batch and return an outcome for each row, in order.

        Raises: BatchRefusedError, UnavailableError, ContractError (credentials or permissions).
        """
