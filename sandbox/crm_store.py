"""What does the local CRM know about each user, and since when? SQLite answers.

Two facts live in one SQLite file: the profile as it is now, and every change that made it so. A third table counts
what was written per field, changed or not, because a CRM bills each attribute it is sent ("data points").
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

Attributes = dict[str, object]

IDENTIFIERS = ("external_id", "user_alias", "braze_id", "email", "phone")
# Keys that steer a write and are not attributes. E-mail and phone identify too, but are also stored.
RESERVED = frozenset({"external_id", "user_alias", "braze_id", "_update_existing_only", "push_token_import"})

_SCHEMA = """
pragma journal_mode = wal;
pragma synchronous = normal;
create table if not exists profiles (external_id text primary key, attributes text not null, updated_at text not null);
create table if not exists changes (
  id integer primary key, external_id text not null, received_at text not null, field text not null,
  before text, after text
);
create index if not exists changes_by_user on changes (external_id, field);
create table if not exists field_writes (field text primary key, written integer not null);
"""


def _field(name: str) -> str:
    return f"json_extract(attributes, '$.{name}')"


_HIGH = f"{_field('churn_risk_band')} = 'high'"
_HOLDOUT = f"{_field('experiment_arm')} = 'holdout'"
# json_type tells true from 1: an attribute that arrived as a number is not an eligibility.
_ELIGIBLE = "json_type(attributes, '$.voucher_eligible') = 'true'"
_WAS_ELIGIBLE = (
    "exists (select 1 from changes where changes.external_id = profiles.external_id"
    " and field = 'voucher_eligible' and before = 'true')"
)
_HAS_SCORE = "json_type(attributes, '$.churn_probability') in ('real', 'integer')"


@dataclass(frozen=True)
class Segment:
    """A saved filter over profiles, as marketing would build it in a CRM."""

    slug: str
    title: str
    rule: str  # in words, for people
    where: str  # the same rule in SQL


SEGMENTS = {
    segment.slug: segment
    for segment in (
        Segment(
            "high-risk-voucher",
            "High risk, voucher eligible, not in holdout",
            "Risk band is high, a voucher may be offered, arm is treatment",
            f"{_HIGH} and {_ELIGIBLE} and {_field('experiment_arm')} = 'treatment'",
        ),
        Segment(
            "high-risk-holdout",
            "High risk, holdout",
            "Risk band is high, arm is holdout: do not target, compare with them",
            f"{_HIGH} and {_HOLDOUT}",
        ),
        Segment("voucher-eligible", "Voucher eligible", "A voucher may be offered now", _ELIGIBLE),
        Segment(
            "voucher-withdrawn",
            "Voucher withdrawn",
            "Was eligible once and is not any more",
            f"json_type(attributes, '$.voucher_eligible') = 'false' and {_WAS_ELIGIBLE}",
        ),
        Segment("medium-risk", "Medium risk", "Risk band is medium", f"{_field('churn_risk_band')} = 'medium'"),
        Segment("low-risk", "Low risk", "Risk band is low", f"{_field('churn_risk_band')} = 'low'"),
        Segment(
            "no-longer-scored",
            "No longer scored",
            "Has an experiment arm but no churn probability",
            f"{_field('experiment_arm')} is not null and {_field('churn_probability')} is null",
        ),
    )
}

_TOTALS = {"profiles": "true", "voucher_eligible": _ELIGIBLE, "high_risk": _HIGH, "in_holdout": _HOLDOUT}


@dataclass(frozen=True)
class Change:
    """One field of one user that became another value; None means the field was or became absent."""

    external_id: str
    received_at: datetime
    field: str
    before: object
    after: object


def profile_key(item: Mapping[str, object]) -> str | None:
    """Return the id a profile is kept under, or None when the object names no user.

    Users known by something else than an external id are kept apart by the name of the identifier.
    """
    name = next((name for name in IDENTIFIERS if item.get(name)), None)
    if name is None:
        return None
    value = item[name]
    text = value if isinstance(value, str) else _json(value)
    return text if name == "external_id" else f"{name}:{text}"


class CrmStore:
    """Profiles and their history in one SQLite file. Safe to share between threads; `received_at` is aware UTC."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        # Autocommit: transactions are opened by hand, so that a request is exactly one.
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file, after the write under way if there is one."""
        with self._lock:
            self._db.close()

    def apply(self, objects: Iterable[Mapping[str, object]], received_at: datetime) -> int:
        """Write attribute objects in their order, all or none, and return how many attributes that was.

        A null removes the attribute. Objects that name no user are skipped.
        """
        at = received_at.astimezone(UTC).isoformat()
        rows = [(key, item) for item in objects if (key := profile_key(item)) is not None]
        with self._transaction() as db:
            known = self._read(key for key, _ in rows)
            changes: list[tuple[str, str, str, str | None, str | None]] = []
            written: dict[str, int] = {}
            touched: dict[str, Attributes] = {}
            for key, item in rows:
                if item.get("_update_existing_only") is True and key not in known:
                    continue
                attributes = touched[key] = known.setdefault(key, {})
                for field in item.keys() - RESERVED:
                    written[field] = written.get(field, 0) + 1
                    before = _json(attributes[field]) if field in attributes else None
                    after = None if item[field] is None else _json(item[field])
                    if after is None:
                        attributes.pop(field, None)
                    else:
                        attributes[field] = item[field]
                    # Compared as JSON text: in Python True == 1, in a CRM it is not.
                    if before != after:
                        changes.append((key, at, field, before, after))
            db.executemany(
                "insert into profiles values (?, ?, ?) on conflict (external_id) do update"
                " set attributes = excluded.attributes, updated_at = excluded.updated_at",
                [(key, _json(attributes), at) for key, attributes in touched.items()],
            )
            db.executemany(
                "insert into changes (external_id, received_at, field, before, after) values (?, ?, ?, ?, ?)", changes
            )
            db.executemany(
                "insert into field_writes values (?, ?) on conflict (field) do update"
                " set written = written + excluded.written",
                list(written.items()),
            )
        return sum(written.values())

    def delete(self, external_ids: Sequence[str]) -> int:
        """Forget these users, history included, and return how many were known."""
        with self._transaction() as db:
            deleted = 0
            for external_id in external_ids:
                deleted += db.execute("delete from profiles where external_id = ?", (external_id,)).rowcount
                db.execute("delete from changes where external_id = ?", (external_id,))
        return deleted

    def profile(self, external_id: str) -> Attributes | None:
        """Return a user's current attributes, or None when the CRM has never heard of them."""
        with self._lock:
            return self._read([external_id]).get(external_id)

    def profiles(self) -> dict[str, Attributes]:
        """Return every user's current attributes."""
        rows = self._rows("select external_id, attributes from profiles order by external_id")
        return {str(key): json.loads(text) for key, text in rows}

    def history(self, external_id: str) -> list[Change]:
        """Return a user's changes, newest first."""
        return self._changes("where external_id = ? order by id desc", (external_id,))

    def latest_writes(self, limit: int) -> list[list[Change]]:
        """Return the newest writes that changed something, each as the changes it made to one user."""
        # A write of ours has 9 fields; 20 a write leaves room for foreign ones.
        changes = self._changes("order by id desc limit ?", (limit * 20,))
        return group_writes(changes)[:limit]

    def totals(self) -> dict[str, int]:
        """Return the counts of profiles, voucher_eligible, high_risk and in_holdout."""
        return self._counts(_TOTALS)

    def segment_counts(self) -> dict[str, int]:
        """Return how many profiles each of SEGMENTS holds, by slug."""
        return self._counts({slug: segment.where for slug, segment in SEGMENTS.items()})

    def segment(self, slug: str, *, limit: int, offset: int = 0) -> list[tuple[str, Attributes]]:
        """Return one page of a segment, highest churn probability first."""
        where = SEGMENTS[slug].where  # our own SQL, looked up by slug: nothing of the request is spliced in
        rows = self._rows(
            f"select external_id, attributes from profiles where {where}"
            f" order by {_field('churn_probability')} desc, external_id limit ? offset ?",
            (limit, offset),
        )
        return [(str(key), json.loads(text)) for key, text in rows]

    def probability_bins(self) -> list[int]:
        """Return how many profiles fall in each tenth of churn_probability; 1.0 belongs to the last."""
        bins = [0] * 10
        expression = f"max(0, min(9, cast({_field('churn_probability')} * 10 as integer)))"
        sql = f"select {expression}, count(*) from profiles where {_HAS_SCORE} group by 1"
        for position, count in self._rows(sql):
            bins[int(position)] = int(count)
        return bins

    def voucher_reasons(self) -> list[tuple[str, int]]:
        """Return how many profiles carry each voucher_reason, commonest first."""
        reason = _field("voucher_reason")
        sql = f"select {reason}, count(*) from profiles where {reason} is not null group by 1 order by 2 desc, 1"
        return [(str(code), int(count)) for code, count in self._rows(sql)]

    def writes_per_field(self) -> dict[str, int]:
        """Return how often each field was written, also when its value stayed the same."""
        rows = self._rows("select field, written from field_writes order by written desc, field")
        return {str(field): int(written) for field, written in rows}

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            # Immediate: another process on the same file waits here instead of failing half way.
            self._db.execute("begin immediate")
            try:
                yield self._db
            except BaseException:
                self._db.execute("rollback")
                raise
            self._db.execute("commit")

    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, parameters).fetchall()

    def _read(self, keys: Iterable[str]) -> dict[str, Attributes]:
        sql = "select external_id, attributes from profiles where external_id in (select value from json_each(?))"
        return {key: json.loads(text) for key, text in self._rows(sql, (_json(list(keys)),))}

    def _changes(self, tail: str, parameters: Sequence[object]) -> list[Change]:
        rows = self._rows(f"select external_id, received_at, field, before, after from changes {tail}", parameters)
        return [Change(key, datetime.fromisoformat(at), field, _value(a), _value(b)) for key, at, field, a, b in rows]

    def _counts(self, rules: Mapping[str, str]) -> dict[str, int]:
        # One pass over the profiles for all rules: SQLite parses each JSON once.
        columns = ", ".join(f"count(*) filter (where {where})" for where in rules.values())
        (row,) = self._rows(f"select {columns} from profiles")
        return dict(zip(rules, row, strict=True))


def group_writes(changes: Iterable[Change]) -> list[list[Change]]:
    """Gather neighbouring changes that one write made to one user."""
    return [list(group) for _, group in groupby(changes, key=lambda change: (change.external_id, change.received_at))]


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _value(text: str | None) -> object:
    return None if text is None else json.loads(text)
