"""Users refused one by one, held back until it is known whether they or the requests are at fault.

A refusal of a batch is about a row only if the CRM accepts other rows in the same kind of request. Until then, a user refused
alone with the batch's own code is not a dead letter. If 20 users are refused so and none is accepted, all of them stay pending.
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

# With this many users refused alone with the same code and none accepted, the requests are at fault.
MIN_REFUSED_ALONE = 20


class Taken:
    """The kinds of request in which the CRM has accepted users in this run. The kind is whether it withdraws vouchers.

    Shared by all sending threads.
    """

    def __init__(self) -> None:
        self._kinds: set[bool] = set()
        self._lock = threading.Lock()

    def add(self, is_withdrawal: bool, outcomes: Sequence[Outcome]) -> None:
        """Record the outcomes of some users."""
        if any(outcome.kind == "delivered" for outcome in outcomes):
            with self._lock:
                self._kinds.add(is_withdrawal)

    def __contains__(self, is_withdrawal: bool) -> bool:
        with self._lock:
            return is_withdrawal in self._kinds


@dataclass(frozen=True)
class Refused:
    """A user refused alone with the code of the whole batch. `change` refers to a row of `states`."""

    change: Change
    outcome: Outcome
    states: pa.RecordBatch = field(repr=False)


@dataclass
class Refusals:
    """Users refused alone while the CRM has accepted no user in their kind of request. Not thread-safe."""

    _held: dict[bool, list[Refused]] = field(default_factory=lambda: defaultdict(list))

    def hold(self, is_withdrawal: bool, refused: Sequence[Refused]) -> None:
        """Hold users until it is known whether they are at fault."""
        self._held[is_withdrawal] += refused

    def release(self, is_withdrawal: bool) -> list[Refused]:
        """Return the users held of a kind, and stop holding them."""
        return self._held.pop(is_withdrawal, [])

    @property
    def error(self) -> ContractError | None:
        """The error that stops the run if too many users were refused with the same code for all to be at fault.

        Kinds without an accepted user count together: 15 withdrawals and 15 others weigh as much as 30 of one kind.
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
