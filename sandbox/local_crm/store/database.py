"""Database of the local CRM: one SQLite file, brought up to date when it is opened.

`profiles` is every user as it is now. `writes` is every write to a user: when, by which run, how many attributes, and what
changed, as JSON {field: [before, after]} with null for absent. `runs` and `deletions` count and name nobody; of a deleted user
nothing else is left. `field_writes` counts what was written per field, changed or not, because a CRM bills each attribute it is
sent. `clock` has the time at which a demo or a replay stands that wrote last, and is empty where a run by the real clock did.
"""

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A stand-in need not survive a power cut: nothing is forced to disk. What is deleted is overwritten, for it is somebody's data.
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

# Until the runs were told apart, each changed field was a row of its own.
_FROM_CHANGES = """
begin immediate;
with counted as (
  -- writes of the same moment are told apart by a field that changed in both
  select *, row_number() over (partition by external_id, received_at, field order by id) as nth from changes
)
insert into writes (external_id, received_at, count_attributes, changed)
select external_id, received_at, count(*), json_group_object(field, json_array(json(before), json(after)))
from counted group by external_id, received_at, nth order by min(id);
drop table changes;
commit;
"""


class Database:
    """The file. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        # Autocommit: transactions are opened by hand, so that a request is exactly one.
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self.connection.executescript(_SCHEMA)
        if self.rows("select 1 from sqlite_master where name = 'changes'"):
            self.connection.executescript(_FROM_CHANGES)
        if not self.rows("pragma user_version")[0][0]:
            # What was deleted before deletions overwrote it lies in pages that are no longer used.
            self.connection.execute("vacuum")
            self.connection.execute("pragma user_version = 1")
            self.forget()
        if "kind" not in {name for _, name, *_ in self.rows("pragma table_info(field_writes)")}:
            self.connection.execute("alter table field_writes add column kind text")

    def close(self) -> None:
        """Close the file, after the write under way if there is one."""
        with self.lock:
            self.connection.close()

    def forget(self) -> None:
        """Empty the write-ahead log, which holds every page as it was before a deletion.

        It waits for others who read the file; one who reads on for 30 s keeps it, and the next deletion or closing empties it.
        """
        with self.lock:
            self.connection.execute("pragma wal_checkpoint(truncate)").fetchall()

    def rows(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[tuple[Any, ...]]:
        """Ask."""
        with self.lock:
            return self.connection.execute(sql, parameters).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write all or nothing."""
        with self.lock:
            # Immediate: another process on the same file waits here instead of failing half way.
            self.connection.execute("begin immediate")
            try:
                yield self.connection
            except BaseException:
                self.connection.execute("rollback")
                raise
            self.connection.execute("commit")
