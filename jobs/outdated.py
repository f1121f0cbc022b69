"""Did an earlier version make the tables, so that this one cannot build upon them?"""

from __future__ import annotations

from collections.abc import Iterable

from warehouse.errors import ContractError
from warehouse.interface import Reader

# Of all models, crm_acknowledged alone reads columns of its own that came with a later version: dbt cannot add those by itself.
_OWN_COLUMNS = {"rejected_reason", "is_in_doubt"}
_LOGGED = "fct_exit_features_logged"
UPGRADE = "Stop the schedule and upgrade the warehouse: CHANGELOG.md, Upgrading, has the commands."
REBUILD = "Once all tables of ops have this version's columns, make what the CRM acknowledged anew, from the log of deliveries:"
COMMANDS = (
    "cd dbt",
    "../.venv/bin/dbt run --profiles-dir . --full-refresh --vars '{allow_full_refresh: true}' \\",
    "  --select staging crm_acknowledged crm_pending crm_sync_attempts crm_sync_rejections crm_sync_runs",
)


def refuse_outdated(warehouse: Reader) -> None:
    """Refuse a warehouse that has to be upgraded, before anything is built in it. Costs a look into the catalog.

    Raises: ContractError.
    """
    if not warehouse.exists("marts", "crm_acknowledged"):
        return
    columns = warehouse.schema(f"select * from {warehouse.relation('marts', 'crm_acknowledged')}").names
    if missing := _OWN_COLUMNS.difference(columns):
        raise ContractError(
            f"marts.crm_acknowledged has no column {', '.join(sorted(missing))}: an earlier version made it. {UPGRADE}"
        )


def refuse_before_first_hour(warehouse: Reader, features: Iterable[str]) -> None:
    """Refuse to build examples of features that the first hour of this version has not appended yet. A look into the catalog.

    Raises: ContractError.
    """
    if not warehouse.exists("marts", _LOGGED):
        return
    # A literal day: on BigQuery the table is read by day alone.
    columns = warehouse.schema(
        f"select * from {warehouse.relation('marts', _LOGGED)} where exited_on = date '1970-01-01'"
    ).names
    if missing := sorted(set(features).difference(columns)):
        raise ContractError(
            f"marts.{_LOGGED} has no column {', '.join(missing)}, which features.yml declares. "
            "Once the dbt project has it, the next winback hourly appends it; "
            "CHANGELOG.md, Upgrading, says how the exits of before get theirs."
        )
