"""The steps that migrate a warehouse of an earlier version to this one.

An interrupted step is repeated, so every step must be repeatable. Steps keep what cannot be rebuilt: raw rows, runs, decisions,
deliveries, the log of features, and the vouchers that the audience remembers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from core.clock import UNIX_EPOCH
from core.errors import ContractError
from jobs.transform.dbt import Window
from warehouse import crms, ledger
from warehouse.interface import Reader, count
from warehouse.tables import MIGRATIONS, USERS

if TYPE_CHECKING:  # it rejects warehouses that are not migrated
    from jobs.context import JobContext

LOGGED, _RATIO = "fct_exit_features_logged", "fields_filled_ratio_per_input"
# Columns of crm_acknowledged that a later version added. The model reads its own columns, so dbt cannot add them.
ACKNOWLEDGED_COLUMNS = frozenset({"rejected_reason", "is_in_doubt"})
# True for every row. BigQuery requires a filter on the partition column.
_ANY_TIME = "loaded_at >= timestamp '1970-01-01 00:00:00'"
_ANY_DAY = "exited_on >= date '1970-01-01'"


@dataclass(frozen=True)
class Step:
    """One step. `todo` returns a text on what is left to do, or nothing; `apply` does it and may be repeated.

    A step with `is_of_history` changes what the backfill and the runs built; without a backfill it has nothing to do.
    """

    name: str
    todo: Callable[[JobContext], str | None]
    apply: Callable[[JobContext], None]
    is_of_history: bool = True


def _columns_todo(context: JobContext) -> str | None:
    lacking = [f"{table.title}.{column.name}" for table, column in context.warehouse.lacking()]
    return f"add {', '.join(lacking)}" if lacking else None


def _add_columns(context: JobContext) -> None:
    lacking = context.warehouse.lacking()
    if wrong := [f"{table.title}.{column.name}" for table, column in lacking if column.required]:
        raise ContractError(
            f"{', '.join(wrong)} must have a value in every row, and no version of winback made the table without it. "
            "Restore the table from a backup, or start a new warehouse."
        )
    for table, column in lacking:
        context.warehouse.add_column(table, column)


def _tables_todo(context: JobContext) -> str | None:
    absent = [table.title for table in context.warehouse.absent()]
    return f"create {', '.join(absent)}" if absent else None


def _arrivals_todo(context: JobContext) -> str | None:
    if context.settings.bigquery:  # the table belongs to the app, and staging falls back to updated_at
        return None
    if not context.warehouse.exists(USERS.layer, USERS.name):
        return None
    lacks_it = any(table is USERS and column.name == "loaded_at" for table, column in context.warehouse.lacking())
    profiles = count(context.warehouse, f"raw.users{'' if lacks_it else ' where loaded_at is null'}")
    return f"set loaded_at of {profiles:,} rows in raw.users to their updated_at" if profiles else None


def _fill_arrivals(context: JobContext) -> None:
    context.warehouse.change("update raw.users set loaded_at = updated_at where loaded_at is null")


def _log_todo(context: JobContext) -> str | None:
    where = f"{_ANY_DAY} and fields_filled_ratio between 0 and 1 and count_input > 0"
    if _RATIO in columns(context.warehouse, LOGGED, "exited_on"):
        where += f" and {_RATIO} is null"
    exits = count(context.warehouse, f"{context.warehouse.relation('marts', LOGGED)} where {where}")
    return f"add {_RATIO} to {exits:,} rows of marts.{LOGGED}, which hold both parts of it" if exits else None


def _fill_log(context: JobContext) -> None:
    name = context.warehouse.relation("marts", LOGGED)
    kind = "float64" if context.settings.bigquery else "double"
    context.warehouse.change(f"alter table {name} add column if not exists {_RATIO} {kind}")
    context.warehouse.change(
        f"update {name} set {_RATIO} = fields_filled_ratio / nullif(count_input, 0) "
        f"where {_ANY_DAY} and {_RATIO} is null and fields_filled_ratio between 0 and 1"
    )


def _rebuild_todo(context: JobContext) -> str:
    since, events = raw_since(context)
    if since:
        return (
            f"build events, sessions and exits again from the raw events, which begin at {since:%Y-%m-%d %H:%M} UTC; "
            f"keep what was built from {events:,} older events that are no longer there"
        )
    return "build events, sessions and exits again from the raw events"


def _rebuild(context: JobContext) -> None:
    """Build the tables from the raw events. The log of features keeps its rows and gets missing exits."""
    since, _ = raw_since(context)
    _build("audit", full_refresh=since is None)(context)
    _build("logged")(context)


def raw_since(context: JobContext) -> tuple[datetime | None, int]:
    """Return the start of the raw events and the number of older events in the tables; None and 0 if there are no older ones.

    If an app deletes old raw events, the tables must keep what was built from them. A full rebuild would delete it.
    """
    warehouse = context.warehouse
    if not warehouse.exists("intermediate", "int_events__deduplicated"):
        return None, 0
    events = warehouse.relation("intermediate", "int_events__deduplicated")
    sql = f"select min(loaded_at) as since from {warehouse.relation('raw', 'app_events')} where {_ANY_TIME}"
    since = warehouse.query(sql).to_pylist()[0]["since"] or _last(context).window_until
    older = f"{events} where occurred_on >= date '1970-01-01' and loaded_at < timestamp '{since:%Y-%m-%d %H:%M:%S.%f}'"
    return (since, found) if (found := count(warehouse, older)) else (None, 0)


def _late_todo(context: JobContext) -> str | None:
    found = count(context.warehouse, _late(context)) if context.warehouse.exists("marts", "fct_late_events") else 0
    return f"remove {found:,} rows of marts.fct_late_events that the next run writes again" if found else None


def _remove_late(context: JobContext) -> None:
    context.warehouse.change(f"delete from {_late(context)}")


def _late(context: JobContext) -> str:
    """Return late events of a window that never committed. The next run builds them again, with other ids."""
    until = _last(context).window_until
    return (
        f"{context.warehouse.relation('marts', 'fct_late_events')} where loaded_on >= date '{until:%Y-%m-%d}' "
        f"and loaded_at >= timestamp '{until:%Y-%m-%d %H:%M:%S.%f}'"
    )


def _acknowledged_todo(context: JobContext) -> str | None:
    there = context.warehouse.exists("marts", "crm_acknowledged")
    missing = ACKNOWLEDGED_COLUMNS.difference(columns(context.warehouse, "crm_acknowledged") if there else ())
    if not missing:
        return None
    return f"build marts.crm_acknowledged again from ops.deliveries; it has no {', '.join(sorted(missing))}"


def _build(selector: str, *, full_refresh: bool = False) -> Callable[[JobContext], None]:
    """Return a function that builds a selector over all data that committed runs have read."""

    def build(context: JobContext) -> None:
        since, _ = raw_since(context)
        # One window for all steps, so that dbt parses the project once.
        context.transform(_window(context, since or UNIX_EPOCH)).build(selector, full_refresh=full_refresh)

    return build


def _window(context: JobContext, from_at: datetime) -> Window:
    first, last = ledger.first_epoch(context.warehouse), _last(context)
    return Window(
        from_at,
        last.window_until,
        history_until=(first or last).window_until,
        profiles_from=UNIX_EPOCH,
        crm_since=crms.state_from(context.warehouse),
    )


def _last(context: JobContext) -> ledger.Epoch:
    last = ledger.last_epoch(context.warehouse)
    if last is None:
        raise ContractError("No history exists. Begin with: winback backfill --until TIME")
    return last


def columns(warehouse: Reader, mart: str, day: str | None = None) -> set[str]:
    """Return the columns of a table of marts. `day` is its partition column; the query reads no partition."""
    where = f" where {day} = date '1970-01-01'" if day else ""
    return set(warehouse.schema(f"select * from {warehouse.relation('marts', mart)}{where}").names)


STEPS = (
    Step("columns", _columns_todo, _add_columns, is_of_history=False),
    Step("tables", _tables_todo, lambda context: context.warehouse.prepare(), is_of_history=False),
    Step("profiles", _arrivals_todo, _fill_arrivals, is_of_history=False),
    Step("views", lambda _: "create the views of staging and of the sync's log again", _build("views")),
    Step("CRM of deliveries", lambda _: "create the view of the deliveries again, with crm_number", _build("views")),
    Step("log of features", _log_todo, _fill_log),
    Step("events, sessions, exits", _rebuild_todo, _rebuild),
    Step("late events", _late_todo, _remove_late),
    Step("acknowledged", _acknowledged_todo, _build("acknowledged", full_refresh=True)),
    Step(
        "audience",
        lambda _: "build the audience again for all users, with late withdrawals of consent and the reason no_profile",
        _build("audience"),
    ),
)


def recorded(warehouse: Reader) -> set[str]:
    """Return the steps that are done, or that a warehouse of this version never needed."""
    if not warehouse.exists(MIGRATIONS.layer, MIGRATIONS.name):
        return set()
    sql = f"select distinct step from {warehouse.relation(MIGRATIONS.layer, MIGRATIONS.name)}"
    return set(warehouse.query(sql).column("step").to_pylist())


def is_migrated(warehouse: Reader) -> bool:
    """Return whether every step of this version is done."""
    return {step.name for step in STEPS} <= recorded(warehouse)
