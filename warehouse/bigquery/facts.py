"""Facts about BigQuery as plain values, which `winback doctor` turns into findings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

LAYERS = ("raw", "ops", "staging", "intermediate", "marts")


# `unasked`: this endpoint does not support the request. `disabled`: BigQuery is not enabled for the project.
RefusalKind = Literal["missing", "denied", "login", "unreachable", "disabled", "unasked", "other"]
Kind = Literal["attached", "key", "federated", "impersonated", "person", "none", "other"]


@dataclass(frozen=True)
class Refusal:
    """A request that was refused or not sent."""

    kind: RefusalKind
    says: str


@dataclass(frozen=True)
class Login:
    """The identity used for BigQuery. `account` is a service account's address, never a person's."""

    kind: Kind
    account: str = ""


@dataclass(frozen=True)
class TableFacts:
    """A table or view: its columns, those that this version expects (name -> type), and its storage."""

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
    """The permissions that a layer needs and those that are granted, tested on one of its tables."""

    table: str
    wanted: frozenset[str]
    given: frozenset[str]


@dataclass(frozen=True)
class Facts:
    """Results of all requests. Those that depend on a refused request are missing.

    `tables` are by `layer.name`. `reads` are the bytes that a query of these marts would read. `session`: whether the Storage
    Read API opened a read session; None if there was no table to try it on.
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
        """Location of the raw dataset, else of any other one; empty without datasets."""
        return next((found for found in self.locations.values() if isinstance(found, str)), "")
