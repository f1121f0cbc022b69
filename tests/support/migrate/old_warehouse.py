"""Makes warehouses with the code of an earlier commit, for tests of `winback migrate`.

    .venv/bin/python -m tests.support.migrate.old_warehouse FOLDER

writes FOLDER/winback.duckdb, with a history, a model and three runs, and FOLDER/crm.sqlite, with the local CRM's content at that
time. The code comes from this repository's history and runs with today's libraries.

    .venv/bin/python -m tests.support.migrate.old_warehouse FOLDER --sql tests/old_warehouse.sql

makes a second, small one in FOLDER/small, with every stored format that has changed, and writes it as SQL. The everyday tests
read that file, without the repository's history and without a minute of processor time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.support.environment import HISTORY_UNTIL, at, small_app

ROOT = Path(__file__).parents[3]
SQL = Path(__file__).with_suffix(".sql")
# The last commit before profiles had an arrival time: events are keyed by their id alone, and sessions have no maximum.
COMMIT = "8b410621e896a557dae04253d87e35a4310bbddd"
COUNT_HOURS = 3

# Users in the small one: users of the synthetic app, two of them with a voucher, and users with one odd case each.
_OF_THE_APP = ["u-0000660", "u-0001015", "u-0001150", "u-0001151"]
LONG_AGO = HISTORY_UNTIL - timedelta(days=20)
# Consent withdrawn before history ended, in a row that arrives after the last run, more than max_lateness_days later.
WITHDRAWN, WITHDRAWN_AT = "u-0000660", HISTORY_UNTIL - timedelta(days=10)
WITHOUT_PROFILE = "nobody"
# 26 hours with an event every 25 minutes.
LONG = [("long", f"long-{n}", LONG_AGO + timedelta(minutes=25 * n), None) for n in range(63)]
# Two users with the same event id: the old key was the id alone, so the second event was dropped.
SHARED = [
    ("shared-a", "device-1", LONG_AGO, None),
    ("shared-b", "device-1", LONG_AGO + timedelta(seconds=1), None),
]
# A prefilled form, 5 microseconds after the app was opened, and an invalid ratio.
ODD = [
    ("odd-rate", "odd-1", LONG_AGO, 0.0),
    ("odd-rate", "odd-2", LONG_AGO + timedelta(microseconds=5), 0.7),
    ("odd-share", "odd-3", LONG_AGO, 0.7),
    ("odd-share", "odd-4", LONG_AGO + timedelta(minutes=2), 0.7),
]
# On BigQuery the app writes the rows, so a percentage was not refused there.
PERCENT = "update raw.app_events set fields_filled_ratio = 70 where user_id = 'odd-share'"
# Exits without a profile in a window of the old code, and one for the first run of the new code.
EXITS = [
    *((WITHOUT_PROFILE, f"nobody-{n}", at(2 + n / 60), n / 10) for n in range(3)),
    *(("next", f"next-{n}", at(6.5 + n / 60), n / 10) for n in range(4)),
]
# Far too late, in a window that the old code began and did not commit: it left a row under the old kind of id.
LATE, LATE_AT = ("shared-a", "late-1", LONG_AGO + timedelta(hours=1), None), at(6.5)
LEFT_BEHIND = """
    insert into marts.fct_late_events by name select
        md5('late-1') as arrival_id, * exclude (device_type, step, fields_filled_ratio, properties),
        loaded_at::date as loaded_on, epoch_us(loaded_at - occurred_at) / 86400e6 as lateness_days
    from raw.app_events where event_id = 'late-1'
"""


def is_at_hand(commit: str = COMMIT) -> bool:
    """Whether this clone has the commit; a shallow clone lacks it."""
    found = subprocess.run(
        ["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True, check=False
    )
    return found.returncode == 0


def make(folder: Path) -> None:
    """Load, backfill, train and run three hours with that commit's code. Raises: CalledProcessError."""
    code = folder / "code"
    code.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", code], input=archive, check=True)
    small_app(count_users=1_500).write(folder)
    _run(folder, folder, ["train"])


def make_small(folder: Path) -> Path:
    """Make the small one beside it, with the same code and model; returns its file."""
    small = folder / "small"
    small.mkdir()
    events = pq.read_table(folder / "events.parquet")
    users = pq.read_table(folder / "users.parquet").drop_columns("loaded_at")
    events = events.filter(
        pc.and_(pc.is_in(events["user_id"], pa.array(_OF_THE_APP)), pc.less(events["loaded_at"], pa.scalar(at(12))))
    )
    users = users.filter(pc.is_in(users["user_id"], pa.array(_OF_THE_APP)))
    redemptions = pq.read_table(folder / "redemptions.parquet")
    more = [
        {
            "event_id": event_id,
            "user_id": user_id,
            "event_name": "field_saved",
            "occurred_at": occurred_at,
            "loaded_at": LATE_AT if event_id == "late-1" else occurred_at + timedelta(minutes=1),
            "device_type": "mobile",
            "step": "income",
            "fields_filled_ratio": ratio,
        }
        for user_id, event_id, occurred_at, ratio in (*LONG, *SHARED, *ODD, *EXITS, LATE)
    ]
    profiles = [
        {"user_id": user_id, "created_at": LONG_AGO, "updated_at": LONG_AGO, "marketing_consent": True, "age": 40}
        for user_id in sorted({str(row["user_id"]) for row in more} - {WITHOUT_PROFILE})
    ]
    pq.write_table(_and(events, more), small / "events.parquet")
    pq.write_table(_and(users, profiles), small / "users.parquet")
    pq.write_table(redemptions.slice(0, 2), small / "redemptions.parquet")
    file = small / "winback.duckdb"
    _run(folder, small, ["examples"], change=PERCENT)
    with duckdb.connect(str(file)) as connection:
        connection.execute(
            "insert into raw.users by name select * replace ($at::timestamp as updated_at, false as marketing_consent) "
            "from raw.users where user_id = $user",
            {"at": WITHDRAWN_AT.replace(tzinfo=None), "user": WITHDRAWN},
        )
        connection.execute(LEFT_BEHIND)
    return file


def _and(table: pa.Table, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.concat_tables([table, pa.Table.from_pylist(rows, schema=table.schema)])


def _run(of_code: Path, folder: Path, command: list[str], *, change: str = "") -> None:
    code = of_code / "code"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(code),
        "WINBACK_WAREHOUSE": f"duckdb:///{folder / 'winback.duckdb'}",
        "WINBACK_MODELS": str(of_code / "models"),
        "WINBACK_REGISTRY": "none",
        "WINBACK_DBT_TARGET": str(folder / "dbt"),
    }

    def winback(*words: str | Path) -> None:
        run = [sys.executable, "-m", "jobs", *map(str, words)]
        subprocess.run(run, cwd=code, env=environment, check=True, capture_output=True)

    files = [part for name in ("events", "users", "redemptions") for part in (f"--{name}", folder / f"{name}.parquet")]
    winback("load", *files)
    with duckdb.connect(str(folder / "winback.duckdb")) as connection:
        connection.execute(change or "select 1")
    winback("backfill", "--until", f"{HISTORY_UNTIL:%Y-%m-%dT%H:%M}")
    winback(*command)
    until = HISTORY_UNTIL + timedelta(hours=2 * COUNT_HOURS)
    winback("replay", "--until", f"{until:%Y-%m-%dT%H:%M}", "--every", "2", "--database", folder / "crm.sqlite")


def written(file: Path) -> str:
    """Return the tables and views of a file as SQL, one row per line."""
    lines = [f"-- Made by the code of {COMMIT[:7]}: tests/support/migrate/old_warehouse.py says how. Do not edit."]
    with duckdb.connect(str(file), read_only=True) as connection:
        tables = connection.execute("select schema_name, table_name, sql from duckdb_tables() order by all").fetchall()
        lines += [f"create schema {schema};" for schema in sorted({schema for schema, *_ in tables} | {"staging"})]
        for schema, table, sql in tables:
            lines.append(sql)
            rows = connection.execute(f"select * from {schema}.{table} order by all").fetchall()
            if rows:
                lines.append(f"insert into {schema}.{table} values")
                values = [f"({', '.join(map(_literal, row))})" for row in rows]
                lines.append(",\n".join(values) + ";")
        views = connection.execute("select sql from duckdb_views() where not internal order by view_name").fetchall()
        # Views of marts read those of staging.
        lines += sorted((sql for (sql,) in views), key=lambda sql: not sql.startswith("CREATE VIEW staging."))
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    """Return a value as a literal that both warehouses read."""
    if value is None:
        return "null"
    if isinstance(value, datetime):
        return f"timestamp '{value:%Y-%m-%d %H:%M:%S.%f}'"
    if isinstance(value, date):
        return f"date '{value:%Y-%m-%d}'"
    if isinstance(value, float):
        # With an exponent it is a double. Without one DuckDB reads a decimal, and loses the last bit.
        return f"{value!r}e0" if "e" not in repr(value) else repr(value)
    if isinstance(value, str):
        if "'" in value or "\\" in value:
            raise ValueError("the two warehouses quote this differently")
        return f"'{value}'"
    return str(value).lower()


def restore(file: Path, sql: Path = SQL) -> None:
    """Create a file from the SQL."""
    with duckdb.connect(str(file)) as connection:
        connection.execute(sql.read_text())


if __name__ == "__main__":
    where = Path(sys.argv[1])
    make(where)
    if "--sql" in sys.argv:
        Path(sys.argv[sys.argv.index("--sql") + 1]).write_text(written(make_small(where)))
