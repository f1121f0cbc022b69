"""Database of the local CRM: one SQLite file, migrated when it is opened.

`profiles` has the current state of every user. `writes` has every write to a user: when, by which run, the number of attributes,
and the changes as JSON {field: [before, after]} with null for absent. `runs` and `deletions` hold only counts; nothing else is
kept of a deleted user. `field_writes` counts the writes of each field, changed or not, because a CRM bills each attribute that it
receives. `clock` has the time of the demo or replay that wrote last; it is empty after a run by the real clock.
"""

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# No write is forced to disk, because a local test CRM may lose data in a power cut. Deleted data is overwritten: it is personal.
_SCHEMA = """
pragma journal_mode = wal;
pragma synchronous = off;
pragma secure_delete = on;
create table if not exists profiles (external_id text primary key, attributes text not null, updated_at text not null);
create table if not exists writes (
  id integer primary key, external_id text not null, received_at text not null, run_id text,
  count_attributes integer not null, changed text not null
);
create index if not exists writes_by_user on writes (external_id);
create index if not exists writes_by_run on writes (run_id, external_id) where run_id is not null;
create table if not exists runs (
  run_id text primary key, first_at text not null, last_at text not null,
  profiles integer not null, writes integer not null, attributes integer not null
);
create table if not exists deletions (received_at text not null, run_id text, deleted integer not null);
create table if not exists field_writes (field text primary key, written integer not null, kind text);
create table if not exists clock (stands_at text not null);
"""

# Migration of files from before runs were recorded, when each changed field was a row of its own.
_FROM_CHANGES = """
begin immediate;
with counted as (
  -- two writes at the same moment differ by a field that changed in both
  select *, row_number() over (partition by external_id, received_at, field order by id) as nth from changes
)
insert into writes (external_id, received_at, count_attributes, changed)
select external_id, received_at, count(*), json_group_object(field, json_array(json(before), json(after)))
from counted group by external_id, received_at, nth order by min(id);
drop table changes;
commit;
"""


class Database:
    """The SQLite file. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        # Autocommit, with transactions opened explicitly, so that each request is one transaction.
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self.connection.executescript(_SCHEMA)
        if self.rows("select 1 from sqlite_master where name = 'changes'"):
            self.connection.executescript(_FROM_CHANGES)
        if not self.rows("pragma user_version")[0][0]:
            # Rows deleted before secure_delete was on are still in unused pages.
            self.connection.execute("vacuum")
            self.connection.execute("pragma user_version = 1")
            self.forget()
        if "kind" not in {name for _, name, *_ in self.rows("pragma table_info(field_writes)")}:
            self.connection.execute("alter table field_writes add column kind text")

    def close(self) -> None:
        """Close the file, after the write in progress."""
        with self.lock:
            self.connection.close()

    def forget(self) -> None:
        """Empty the write-ahead log, which holds every page as it was before a deletion.

        It waits for other readers. If one reads for 30 s, the log stays, and the next deletion or closing empties it.
        """
        with self.lock:
            self.connection.execute("pragma wal_checkpoint(truncate)").fetchall()

    def rows(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[tuple[Any, ...]]:
        """Run a query and return its rows."""
        with self.lock:
            return self.connection.execute(sql, parameters).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write all changes or none."""
        with self.lock:
            # Immediate: another process with the same file waits here instead of failing in the middle.
            self.connection.execute("begin immediate")
            try:
                yield self.connection
            except BaseException:
                self.connection.execute("rollback")
                raise
            self.connection.execute("commit")
