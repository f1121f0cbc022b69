"""Profiles of the local CRM: writes, deletions and their history."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from sandbox.local_crm.store.database import Database
from sandbox.local_crm.store.queries import Attributes, Views

IDENTIFIERS = ("external_id", "user_alias", "braze_id", "email", "phone")
# Keys that control a write and are not attributes. E-mail and phone also identify a user, but they are stored.
RESERVED = frozenset({"external_id", "user_alias", "braze_id", "_update_existing_only", "push_token_import"})

_KINDS = {str: "text", bool: "flag", int: "number", float: "number", list: "texts", dict: "object"}
_to_json = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


def profile_key(item: Mapping[str, object]) -> str | None:
    """Return the id that a profile is stored under, or None when the object names no user.

    Users identified by something else than an external id get a key that begins with the identifier's name.
    """
    external_id = item.get("external_id")
    if external_id and isinstance(external_id, str):
        return external_id
    name = next((name for name in IDENTIFIERS if item.get(name)), None)
    if name is None:
        return None
    value = item[name]
    text = value if isinstance(value, str) else _to_json(value)
    return text if name == "external_id" else f"{name}:{text}"


class CrmStore(Views):
    """Profiles and their history. Safe to share between threads; `received_at` is aware UTC."""

    def __init__(self, path: Path, clock: Callable[[], datetime] | None = None) -> None:
        self.database = Database(path)
        self.clock = clock or (lambda: datetime.now(UTC))

    def close(self) -> None:
        """Close the file, after the write in progress."""
        self.database.close()

    def stand_at(self, moment: datetime | None) -> None:
        """Set the pages' clock to a moment, for a demo or a replay; None returns to the real clock."""
        with self.database.transaction() as db:
            db.execute("delete from clock")
            if moment is not None:
                db.execute("insert into clock values (?)", (moment.astimezone(UTC).isoformat(),))

    def clear(self) -> None:
        """Delete everything. The file stays, so that a process that has it open sees it empty."""
        with self.database.transaction() as db:
            for table in ("profiles", "writes", "runs", "deletions", "field_writes", "clock"):
                db.execute(f"delete from {table}")
        self.database.forget()

    def apply(
        self, objects: Iterable[Mapping[str, object]], received_at: datetime, *, run_id: str | None = None
    ) -> int:
        """Write objects of an external id and attributes in their order, all or none; return the number of attributes.

        A null removes the attribute. Objects that name no user are skipped. Names and types of values are stored as received:
        the segments use winback's fields by the names of `config/crm_fields.yml`.
        """
        at = received_at.astimezone(UTC).isoformat()
        rows = [(key, item) for item in objects if (key := profile_key(item)) is not None]
        with self.database.transaction() as db:
            known = self.read(key for key, _ in rows)
            writes: list[tuple[str, str, str | None, int, str]] = []
            written = Counter[str]()
            kinds: dict[str, str] = {}
            for key, item in rows:
                if item.get("_update_existing_only") is True and key not in known:
                    continue
                values = {name: value for name, value in item.items() if name not in RESERVED}
                written.update(values.keys())
                changed = _merge(known.setdefault(key, {}), values)
                for name, (_, after) in changed.items():
                    if after is not None:
                        kinds.setdefault(name, _KINDS[type(after)])
                writes.append((key, at, run_id, len(values), _to_json(changed)))
            if run_id is not None and writes:
                self._count_run(run_id, at, writes)
            db.executemany(
                "insert into profiles values (?, ?, ?) on conflict (external_id) do update"
                " set attributes = excluded.attributes, updated_at = excluded.updated_at",
                [(key, _to_json(known[key]), at) for key in dict.fromkeys(key for key, *_ in writes)],
            )
            db.executemany(
                "insert into writes (external_id, received_at, run_id, count_attributes, changed) values (?, ?, ?, ?, ?)",
                writes,
            )
            # A CRM that creates an attribute with its first value keeps that value's type.
            db.executemany(
                "insert into field_writes values (?, ?, ?) on conflict (field) do update"
                " set written = written + excluded.written, kind = coalesce(kind, excluded.kind)",
                [(field, count, kinds.get(field)) for field, count in written.items()],
            )
        return written.total()

    def delete(self, external_ids: Sequence[str], received_at: datetime, *, run_id: str | None = None) -> int:
        """Delete these users with their history, and return how many were known. Only that count is kept."""
        at = received_at.astimezone(UTC).isoformat()
        keys = _to_json(list(external_ids))
        with self.database.transaction() as db:
            among = "external_id in (select value from json_each(?))"
            deleted = db.execute(f"delete from profiles where {among}", (keys,)).rowcount
            db.execute(f"delete from writes where {among}", (keys,))
            db.execute("insert into deletions values (?, ?, ?)", (at, run_id, deleted))
            if run_id is not None:
                self._count_run(run_id, at, [])
        self.database.forget()
        return deleted

    def _count_run(self, run_id: str, at: str, writes: Sequence[tuple[str, str, str | None, int, str]]) -> None:
        keys = {key for key, *_ in writes}
        ((again,),) = self.database.rows(
            "select count(distinct external_id) from writes"
            " where run_id = ? and external_id in (select value from json_each(?))",
            (run_id, _to_json(list(keys))),
        )
        self.database.connection.execute(
            "insert into runs values (?, ?, ?, ?, ?, ?) on conflict (run_id) do update set last_at = excluded.last_at,"
            " profiles = profiles + excluded.profiles, writes = writes + excluded.writes,"
            " attributes = attributes + excluded.attributes",
            (run_id, at, at, len(keys) - again, len(writes), sum(count for *_, count, _ in writes)),
        )


def _merge(attributes: Attributes, values: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """Merge values into the attributes and return the changes, each as (before, after) with None for absent."""
    changed = {}
    for name, after in values.items():
        before = attributes.get(name)
        if after is None:
            attributes.pop(name, None)
        else:
            attributes[name] = after
        if not _is_same(before, after):
            changed[name] = (before, after)
    return changed


def _is_same(before: object, after: object) -> bool:
    # In Python True == 1, in a CRM it is not. Lists and objects are compared as JSON.
    if type(before) is not type(after):
        return False
    return _to_json(before) == _to_json(after) if isinstance(after, list | dict) else before == after
