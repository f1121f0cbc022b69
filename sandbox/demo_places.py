"""Places of the demo: lists data there that no demo made, and removes what an earlier demo left."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from core.errors import ContractError
from core.settings import Settings
from jobs.upkeep.demo_mark import LAYER, OWN_DATA, DemoMark, read_mark
from sandbox import crm_file
from sandbox.local_crm.store.profiles import CrmStore
from warehouse.duckdb.doctor import ReadOnlyDuckDB
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.interface import LAYERS, count

# A raw row belongs to the demo if it equals a row of the demo's files in the columns that they share.
_RAW = {
    "app_events": ("events", "user_id", "event_id"),
    "users": ("users", "user_id", "created_at"),
    "voucher_redemptions": ("redemptions", "user_id", "redemption_id"),
}
_FILES = ("events", "users", "redemptions", "truth")
_OF_REGISTRY = re.compile(r"champion|artifacts|registry\.db(-journal|-wal|-shm)?")


@dataclass(frozen=True)
class Places:
    """Paths that the demo uses."""

    warehouse: Path
    models: Path
    crm: Path
    data: Path


def places_of(settings: Settings) -> Places:
    """Return the paths that the settings name.

    Raises: ContractError when the warehouse is BigQuery.
    """
    if settings.duckdb_file is None:
        raise ContractError("The demo works in a DuckDB file, never in BigQuery. Unset WINBACK_WAREHOUSE.")
    file = settings.duckdb_file
    return Places(file, settings.models, crm_file(file), file.parent / "demo")


def clear(places: Places) -> None:
    """Remove what an earlier demo made. The CRM's file is emptied, not deleted, so that a running server sees the new state.

    Raises: ContractError that names data which no demo made; then nothing is removed. RunInProgressError when another
    process has the file open.
    """
    mark = None
    in_the_way = list(_of_another_kind(places))
    if places.warehouse.is_file():
        DuckDBWarehouse(places.warehouse).close()  # fails if the file is in use; recovers a killed run's log
        with closing(ReadOnlyDuckDB(places.warehouse)) as warehouse:
            mark = read_mark(warehouse)
            in_the_way += [f"{places.warehouse}: {what}" for what in _in_warehouse(warehouse, mark, places.data)]
    in_the_way += [f"{path}: not a model of the demo" for path in _foreign_models(places.models, mark)]
    if found := _in_crm(places.crm, places.data):
        in_the_way.append(f"{places.crm}: {found}")
    if in_the_way:
        listed = "\n".join(f"  {line}" for line in in_the_way)
        raise ContractError(
            f"The demo would delete data that it did not make, so it did nothing:\n{listed}\n"
            f"{OWN_DATA} for the demo or for this data, or delete what you no longer need (make clean removes all of var/)."
        )
    if places.crm.is_file():
        with closing(CrmStore(places.crm)) as store:
            store.clear()
    # The models first, then the warehouse, then the files: each proves that a demo made those before it.
    for path in [path for path in _entries(places.models) if _is_of_demo(path.name, mark)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (places.warehouse, places.warehouse.with_name(f"{places.warehouse.name}.wal")):
        path.unlink(missing_ok=True)
    for name in _FILES:
        (places.data / f"{name}.parquet").unlink(missing_ok=True)


def _of_another_kind(places: Places) -> Iterator[str]:
    """Folders in place of the demo's files, and files in place of its folders."""
    files = (places.warehouse, places.crm, *(places.data / f"{name}.parquet" for name in _FILES))
    yield from (f"{path}: it is a folder" for path in files if path.is_dir())
    yield from (
        f"{path}: it is not a folder" for path in (places.models, places.data) if path.exists() and not path.is_dir()
    )


def _in_warehouse(warehouse: DuckDBWarehouse, mark: DemoMark | None, data: Path) -> Iterator[str]:
    """Data that the demo did not make: raw rows, epochs, tables."""
    for name, (file, *columns) in _RAW.items():
        if not warehouse.exists("raw", name):
            continue
        source = f"{warehouse.relation('raw', name)} as ours"
        if mark and (path := data / f"{file}.parquet").is_file():
            same = " and ".join(f"ours.{column} = demo.{column}" for column in columns)
            text = str(path).replace("'", "''")
            source += f" anti join (select {', '.join(columns)} from read_parquet('{text}')) as demo on {same}"
        if rows := count(warehouse, source):
            yield f"{rows:,} rows of raw.{name}"
    if warehouse.exists("ops", "runs"):
        sql = "select window_until from ops.runs order by epoch"
        windows = warehouse.query(sql).column("window_until").to_pylist()
        known = mark.windows_until if mark else frozenset()
        if others := [until for until in windows if until not in known]:
            yield f"{len(others):,} epochs, the last until {others[-1]:%Y-%m-%d %H:%M} UTC"
    tables = "select schema_name, table_name from duckdb_tables() where not internal order by all"
    for schema, name in warehouse.connection.execute(tables).fetchall():
        if schema not in (*LAYERS, LAYER):
            yield f"table {schema}.{name}"


def _foreign_models(models: Path, mark: DemoMark | None) -> Iterator[Path]:
    return (path for path in _entries(models) if not _is_of_demo(path.name, mark))


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_of_demo(name: str, mark: DemoMark | None) -> bool:
    """Whether a demo made an entry of the models' folder. A bundle's name begins with the time up to which it learned."""
    if mark is None:
        return False
    version = f"{mark.history_until:%Y%m%dT%H%M%SZ}-"
    return name.lstrip(".").startswith(version) or _OF_REGISTRY.fullmatch(name) is not None


def _in_crm(crm: Path, data: Path) -> str | None:
    """Profiles in the local CRM that no demo wrote. An empty CRM counts as the demo's."""
    if not crm.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{crm.absolute().as_uri()}?mode=ro", uri=True)) as db:
            has_profiles = db.execute("select 1 from sqlite_master where name = 'profiles'").fetchone()
            names = {row[0] for row in db.execute("select external_id from profiles")} if has_profiles else set()
    except sqlite3.DatabaseError:
        return "not a file of the local CRM"
    users = data / "users.parquet"
    if names and users.is_file():
        names -= set(pq.read_table(users, columns=["user_id"]).column("user_id").to_pylist())
    return f"{len(names):,} profiles of users that the demo did not make" if names else None
