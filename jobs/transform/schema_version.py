"""Checks of the warehouse's version: a warehouse of an earlier version is rejected before anything is built in it."""

from __future__ import annotations

from collections.abc import Iterable

from core.errors import ContractError
from jobs.upkeep.migrations import LOGGED, columns, is_migrated
from warehouse.interface import Reader


def check_schema_version(warehouse: Reader) -> None:
    """Reject a warehouse that has to be migrated first. Costs one read of the catalog and a query of a few rows.

    Raises: ContractError.
    """
    # The backfill creates the tables of the audience and records the migration steps of its version.
    if warehouse.exists("marts", "crm_acknowledged") and not is_migrated(warehouse):
        raise ContractError(
            "An earlier version of winback made this warehouse, and it is not migrated. "
            "Stop the schedule, copy the warehouse, and migrate it: winback migrate --dry-run, then winback migrate"
        )


def check_feature_columns(warehouse: Reader, features: Iterable[str]) -> None:
    """Reject a build of examples with features that no run of this version has added yet. Costs one read of the catalog.

    Raises: ContractError.
    """
    if not warehouse.exists("marts", LOGGED):
        return
    if missing := sorted(set(features).difference(columns(warehouse, LOGGED, "exited_on"))):
        raise ContractError(
            f"marts.{LOGGED} has no column {', '.join(missing)}, which features.yml declares. "
            "Once the dbt project has it, the next winback run adds it."
        )
