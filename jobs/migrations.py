"""The steps that bring a warehouse of an earlier version to this one.

Each step finds out by itself what is left to do, so that a migration that was killed is finished by the same command. Steps are
additive: they add tables, columns and values, and take nothing away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobs.house import House
from jobs.transform import SINCE_EVER, Window
from warehouse import ledger
from warehouse.errors import ContractError
from warehouse.tables import MIGRATIONS, USERS

LOGGED, _RATIO = "fct_exit_features_logged", "fields_filled_ratio_per_input"
# Columns of crm_acknowledged that came with a later version. It reads its own columns, so dbt cannot add them.
ACKNOWLEDGED_COLUMNS = frozenset({"rejected_reason", "is_in_doubt"})


@dataclass(frozen=True)
class Step:
    """One step. `todo` says what is left to do, in words, or nothing; `apply` does it and may be repeated.

    A step of the history changes what the backfill and the runs built; without a backfill there is nothing to change.
    """

    name: str
    todo: Callable[[House], str | None]
    apply: Callable[[House], None]
    is_of_history: bool = True


def _columns_todo(house: House) -> str | None:
    lacking = [f"{table.title}.{column.name}" for table, column in house.warehouse.lacking()]
    return f"add {', '.join(lacking)}" if lacking else None


def _add_columns(house: House) -> None:
    lacking = house.warehouse.lacking()
    if wrong := [f"{table.title}.{column.name}" for table, column in lacking if column.required]:
        raise ContractError(
            f"{', '.join(wrong)} must have a value in every row, and no version of winback made the table without it. "
            "Restore the table from a backup, or begin a new warehouse."
        )
    for table, column in lacking:
        house.warehouse.add_column(table, column)


def _tables_todo(house: House) -> str | None:
    absent = [table.title for table in house.warehouse.absent()]
    return f"create {', '.join(absent)}" if absent else None


def _arrivals_todo(house: House) -> str | None:
    if (
        "loaded_at" not in USERS.schema.names or house.settings.bigquery
    ):  # the table is the app's, and staging falls back to updated_at
        return None
    if any(table is USERS and column.name == "loaded_at" for table, column in house.warehouse.lacking()):
        return "give every profile in raw.users its time of update as time of arrival"
    rows = house.warehouse.query("select count(*) as n from raw.users where loaded_at is null").to_pylist()
    count = rows[0]["n"]
    return f"give {count:,} profiles in raw.users their time of update as time of arrival" if count else None


def _fill_arrivals(house: House) -> None:
    house.warehouse.change("update raw.users set loaded_at = updated_at where loaded_at is null")


def _acknowledged_todo(house: House) -> str | None:
    missing = ACKNOWLEDGED_COLUMNS.difference(columns(house, "crm_acknowledged"))
    if not missing:
        return None
    return f"make marts.crm_acknowledged again from ops.deliveries; it has no {', '.join(sorted(missing))}"


def _audience_todo(_: House) -> str:
    return "build the audience again over all users: withdrawals of consent that arrived late count, no_profile is told apart"


def _log_todo(house: House) -> str | None:
    if _RATIO in columns(house, LOGGED, "exited_on"):
        return None
    return f"give the exits in marts.{LOGGED} their {_RATIO}, both parts of which were logged"


def _fill_log(house: House) -> None:
    name = house.warehouse.relation("marts", LOGGED)
    kind = "float64" if house.settings.bigquery else "double"
    house.warehouse.change(f"alter table {name} add column if not exists {_RATIO} {kind}")
    # On BigQuery the table is read by day alone.
    house.warehouse.change(
        f"update {name} set {_RATIO} = fields_filled_ratio / nullif(count_input, 0) "
        f"where exited_on >= date '1970-01-01' and {_RATIO} is null and fields_filled_ratio between 0 and 1"
    )


def _rebuild(house: House) -> None:
    """Tables anew from the raw events; the log of features as the model saw them gets what it lacks, and keeps the rest."""
    first, last = ledger.history(house.warehouse)
    window = Window(from_at=SINCE_EVER, until_at=last.window_until, history_until=first.window_until)
    house.transform(window).build("audit", full_refresh=True)
    house.transform(window).build("logged")


def _build(selector: str, *, full_refresh: bool = False) -> Callable[[House], None]:
    """Build a selector over everything that the committed runs have taken in."""

    def build(house: House) -> None:
        first, last = ledger.history(house.warehouse)
        window = Window(
            # Nothing is taken in: the window is empty. Decisions, profiles and deliveries are read from their beginning.
            from_at=last.window_until,
            until_at=last.window_until,
            history_until=first.window_until,
            profiles_from=SINCE_EVER,
        )
        house.transform(window).build(selector, full_refresh=full_refresh)

    return build


def columns(house: House, mart: str, day: str | None = None) -> set[str]:
    """The columns of a table of marts; `day` is what BigQuery keeps it by, and none is read."""
    where = f" where {day} = date '1970-01-01'" if day else ""
    return set(house.warehouse.schema(f"select * from {house.warehouse.relation('marts', mart)}{where}").names)


STEPS = (
    Step("columns", _columns_todo, _add_columns, is_of_history=False),
    Step("tables", _tables_todo, lambda house: house.warehouse.prepare(), is_of_history=False),
    Step("arrivals of profiles", _arrivals_todo, _fill_arrivals, is_of_history=False),
    Step("views", lambda _: "make the views of staging again", _build("staging")),
    Step("log of features", _log_todo, _fill_log),
    Step("events, sessions, exits", lambda _: "build them again from the raw events that are there", _rebuild),
    Step("acknowledged", _acknowledged_todo, _build("acknowledged", full_refresh=True)),
    Step("audience", _audience_todo, _build("audience")),
)


def is_migrated(house: House) -> bool:
    """Whether every step that this version knows was done, or the warehouse was made by this version."""
    if not house.warehouse.exists(MIGRATIONS.layer, MIGRATIONS.name):
        return False
    sql = f"select distinct step from {house.warehouse.relation(MIGRATIONS.layer, MIGRATIONS.name)}"
    done = set(house.warehouse.query(sql).column("step").to_pylist())
    return {step.name for step in STEPS} <= done
