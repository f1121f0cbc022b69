"""Facts about BigQuery, as values: `winback doctor` turns them into findings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

LAYERS = ("raw", "ops", "staging", "intermediate", "marts")


# `unasked`: this endpoint does not know the question. `disabled`: the project has not switched BigQuery on.
RefusalKind = Literal["missing", "denied", "login", "unreachable", "disabled", "unasked", "other"]
Kind = Literal["attached", "key", "federated", "impersonated", "person", "none", "other"]


@dataclass(frozen=True)
class Refusal:
    """A question without an answer."""

    kind: RefusalKind
    says: str


@dataclass(frozen=True)
class Login:
    """As whom BigQuery is asked. `account` is a service account's address, never a person's."""

    kind: Kind
    account: str = ""


@dataclass(frozen=True)
class TableFacts:
    """A table or view: its columns, those that this version wants (name -> type), and how it is kept."""

    types: dict[str, str]
    wanted: dict[str, str]
    kind: str = "TABLE"
    partition_on: str | None = None
    partition_by: str | None = None
    is_filter_required: bool = False
    clustered_by: tuple[str, ...] = ()
    count_bytes: int = 0


@dataclass(frozen=True)
class Granted:
    """Which of the permissions that a layer needs are given, as asked of one of its tables."""

    table: str
    wanted: frozenset[str]
    given: frozenset[str]


@dataclass(frozen=True)
class Facts:
    """Everything that was asked; what hangs on a refused question is absent.

    `tables` by `layer.name`; `reads` the bytes that a query of these marts would read; `session` whether the Storage Read API
    opened a reading session, None when there was no table to try it on.
    """

    login: Login | Refusal
    queries: Refusal | None = None
    project: frozenset[str] | Refusal = Refusal("unasked", "")
    locations: dict[str, str | Refusal] = field(default_factory=dict)
    tables: dict[str, TableFacts | Refusal] = field(default_factory=dict)
    granted: dict[str, Granted | Refusal] = field(default_factory=dict)
    session: bool | Refusal | None = None
    reads: dict[str, int | Refusal] = field(default_factory=dict)

    @property
    def location(self) -> str:
        """Where the raw dataset lies, or else any other; empty where there is none."""
        return next((found for found in self.locations.values() if isinstance(found, str)), "")
