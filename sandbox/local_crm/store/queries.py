"""Queries of the local CRM's pages: profiles, history, segments, and runs."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from sandbox.local_crm.store.database import Database
from sandbox.local_crm.store.segments import HAS_SCORE, SEGMENTS, TOTALS, field_sql

Attributes = dict[str, object]


@dataclass(frozen=True)
class Change:
    """One changed field of one user; None means the field was or became absent."""

    external_id: str
    received_at: datetime
    field: str
    before: object
    after: object
    run_id: str | None = None
    write_id: int = 0


@dataclass(frozen=True)
class RunWrites:
    """Writes of one run: users, writes (more than users if some were written twice), attributes, users deleted."""

    run_id: str
    first_at: datetime
    last_at: datetime
    profiles: int
    writes: int
    attributes: int
    deleted: int


@dataclass(frozen=True)
class Written:
    """Writes of one run to one user: number of writes, number of attributes, and the changed fields."""

    external_id: str
    last_at: datetime
    writes: int
    attributes: int
    fields: list[str]


class Views:
    """Read queries. Times are aware UTC."""

    database: Database
    clock: Callable[[], datetime]

    def stands_at(self) -> datetime | None:
        """Return the clock of the demo or replay that wrote last; None after a run by the real clock."""
        rows = self.database.rows("select stands_at from clock")
        return datetime.fromisoformat(rows[0][0]) if rows else None

    def now(self) -> datetime:
        """Return the time that decides whether vouchers are valid: that of the demo or replay, or else the clock's."""
        return self.stands_at() or self.clock()

    def read(self, keys: Iterable[str]) -> dict[str, Attributes]:
        """Return the attributes of those users that exist."""
        sql = "select external_id, attributes from profiles where external_id in (select value from json_each(?))"
        return {key: json.loads(text) for key, text in self.database.rows(sql, (json.dumps(list(keys)),))}

    def profile(self, external_id: str) -> Attributes | None:
        """Return a user's current attributes, or None for an unknown user."""
        return self.read([external_id]).get(external_id)

    def profiles(self) -> dict[str, Attributes]:
        """Return every user's current attributes."""
        rows = self.database.rows("select external_id, attributes from profiles order by external_id")
        return {str(key): json.loads(text) for key, text in rows}

    def history(self, external_id: str) -> list[Change]:
        """Return a user's changes, newest first."""
        return self._changes("where external_id = ? order by id desc", (external_id,))

    def latest_writes(self, limit: int) -> list[list[Change]]:
        """Return the newest writes that changed something, each as its changes to one user."""
        return group_writes(self._changes("where changed <> '{}' order by id desc limit ?", (limit,)))

    def totals(self) -> dict[str, int]:
        """Return the counts of profiles, voucher_eligible, high_risk and in_holdout."""
        return self._counts(TOTALS)

    def segment_counts(self) -> dict[str, int]:
        """Return how many profiles each of SEGMENTS holds, by slug."""
        return self._counts({slug: segment.where for slug, segment in SEGMENTS.items()})

    def segment(self, slug: str, *, limit: int, offset: int = 0) -> list[tuple[str, Attributes]]:
        """Return one page of a segment, highest churn probability first."""
        where = SEGMENTS[slug].where  # fixed SQL, looked up by slug: no text of the request enters it
        rows = self.database.rows(
            f"select external_id, attributes from profiles where {where}"
            f" order by {field_sql('churn_probability')} desc, external_id limit :limit offset :offset",
            {"now": self.now().isoformat(), "limit": limit, "offset": offset},
        )
        return [(str(key), json.loads(text)) for key, text in rows]

    def probability_bins(self) -> list[int]:
        """Return how many profiles fall in each tenth of churn_probability; 1.0 belongs to the last."""
        bins = [0] * 10
        expression = f"max(0, min(9, cast({field_sql('churn_probability')} * 10 as integer)))"
        sql = f"select {expression}, count(*) from profiles where {HAS_SCORE} group by 1"
        for position, count in self.database.rows(sql):
            bins[int(position)] = int(count)
        return bins

    def voucher_reasons(self) -> list[tuple[str, int]]:
        """Return how many profiles carry each voucher_reason, commonest first."""
        reason = field_sql("voucher_reason")
        sql = f"select {reason}, count(*) from profiles where {reason} is not null group by 1 order by 2 desc, 1"
        return [(str(code), int(count)) for code, count in self.database.rows(sql)]

    def writes_per_field(self) -> dict[str, int]:
        """Return the number of writes of each field, whether its value changed or not."""
        rows = self.database.rows("select field, written from field_writes order by written desc, field")
        return {str(field): int(written) for field, written in rows}

    def kinds(self) -> dict[str, str]:
        """Return the kind of each field's first value, by field: text, flag, number, texts or object."""
        rows = self.database.rows("select field, kind from field_writes where kind is not null order by field")
        return {str(field): str(kind) for field, kind in rows}

    def count_deleted(self) -> int:
        """Return how many users were deleted."""
        ((deleted,),) = self.database.rows("select coalesce(sum(deleted), 0) from deletions")
        return int(deleted)

    def count_runs(self) -> int:
        """Return how many runs have written or deleted."""
        ((count,),) = self.database.rows("select count(*) from runs")
        return int(count)

    def runs(self, limit: int, offset: int = 0) -> list[RunWrites]:
        """Return the runs that wrote or deleted last, newest first."""
        return self._runs("order by last_at desc, run_id desc limit ? offset ?", (limit, offset))

    def run(self, run_id: str) -> RunWrites | None:
        """Return what one run wrote, or None if it wrote nothing here."""
        return next(iter(self._runs("where run_id = ?", (run_id,))), None)

    def count_written(self, run_id: str) -> int:
        """Return how many users that a run wrote still exist."""
        ((count,),) = self.database.rows("select count(distinct external_id) from writes where run_id = ?", (run_id,))
        return int(count)

    def written_by(self, run_id: str, *, limit: int, offset: int = 0) -> list[Written]:
        """Return one page of the users that a run wrote and that still exist, ordered by id."""
        rows = self.database.rows(
            "select external_id, max(received_at), count(*), sum(count_attributes), group_concat(changed, char(10))"
            " from writes where run_id = ? group by external_id order by external_id limit ? offset ?",
            (run_id, limit, offset),
        )
        return [
            Written(
                key,
                datetime.fromisoformat(at),
                writes,
                attributes,
                list(dict.fromkeys(field for line in changed.split("\n") for field in json.loads(line))),
            )
            for key, at, writes, attributes, changed in rows
        ]

    def _runs(self, tail: str, parameters: Sequence[object]) -> list[RunWrites]:
        deleted = "(select coalesce(sum(deleted), 0) from deletions where deletions.run_id = runs.run_id)"
        rows = self.database.rows(
            f"select run_id, first_at, last_at, profiles, writes, attributes, {deleted} from runs {tail}", parameters
        )
        return [
            RunWrites(run_id, datetime.fromisoformat(first), datetime.fromisoformat(last), *counts)
            for run_id, first, last, *counts in rows
        ]

    def _changes(self, tail: str, parameters: Sequence[object]) -> list[Change]:
        rows = self.database.rows(
            f"select id, external_id, received_at, run_id, changed from writes {tail}", parameters
        )
        return [
            Change(key, datetime.fromisoformat(at), field, before, after, run_id, write_id)
            for write_id, key, at, run_id, changed in rows
            for field, (before, after) in json.loads(changed).items()
        ]

    def _counts(self, rules: Mapping[str, str]) -> dict[str, int]:
        # One pass over the profiles for all rules, because SQLite then parses each JSON once.
        columns = ", ".join(f"count(*) filter (where {where})" for where in rules.values())
        (row,) = self.database.rows(f"select {columns} from profiles", {"now": self.now().isoformat()})
        return dict(zip(rules, row, strict=True))


def group_writes(changes: Iterable[Change]) -> list[list[Change]]:
    """Group the changes by the write that made them."""
    return [list(group) for _, group in groupby(changes, key=lambda change: change.write_id)]
