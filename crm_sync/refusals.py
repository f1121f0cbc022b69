"""Users whom the CRM refused one by one, kept until it is known whether they or the requests are at fault.

A refusal of a batch is about a row only if the CRM takes other rows in the same kind of request. Until it has, a user who was
refused alone with the batch's own code is no dead letter; once 20 are, and none was taken, all of them stay pending.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from core.errors import ContractError
from crm_sync.destination import Outcome
from crm_sync.diff import Change

# So many distinct users refused alone with one code, and none taken: the fault is not theirs.
MIN_REFUSED_ALONE = 20


class Taken:
    """The kinds of request with which the CRM has taken users in this run; a kind is whether it withdraws vouchers.

    Shared by all sending threads.
    """

    def __init__(self) -> None:
        self._kinds: set[bool] = set()
        self._lock = threading.Lock()

    def add(self, is_withdrawal: bool, outcomes: Sequence[Outcome]) -> None:
        """Take in what became of some users."""
        if any(outcome.kind == "delivered" for outcome in outcomes):
            with self._lock:
                self._kinds.add(is_withdrawal)

    def __contains__(self, is_withdrawal: bool) -> bool:
        with self._lock:
            return is_withdrawal in self._kinds


@dataclass(frozen=True)
class Refused:
    """A user who was refused alone with the code of the whole batch. `change` is of a row of `states`."""

    change: Change
    outcome: Outcome
    states: pa.RecordBatch = field(repr=False)


@dataclass
class Refusals:
    """Users refused alone while the CRM has taken nobody with their kind of request. For one thread."""

    _held: dict[bool, list[Refused]] = field(default_factory=lambda: defaultdict(list))

    def hold(self, is_withdrawal: bool, refused: Sequence[Refused]) -> None:
        """Keep users of whom it is not known yet whether they are at fault."""
        self._held[is_withdrawal] += refused

    def release(self, is_withdrawal: bool) -> list[Refused]:
        """Return those kept of a kind, and keep them no longer."""
        return self._held.pop(is_withdrawal, [])

    @property
    def error(self) -> ContractError | None:
        """Why to stop: so many were refused with one code that they cannot all be at fault.

        Kinds of which none was taken count together: 15 withdrawals and 15 others say as much as 30 of one kind.
        """
        by_code = Counter(
            (each.outcome.http_status, each.outcome.code) for kept in self._held.values() for each in kept
        )
        for (status, code), count in by_code.items():
            if count >= MIN_REFUSED_ALONE:
                return ContractError(
                    f"The CRM refused {count} users one by one with the code of their whole batch (HTTP {status}, {code}) "
                    "and has taken none in this run: the requests are at fault, not the users. No user was set aside. "
                    "Check the API version and the options in config/crm.yml: winback doctor"
                )
        return None
