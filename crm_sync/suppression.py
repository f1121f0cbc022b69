"""Users who finished, withdrew consent or were erased since the desired state was built.

The desired state is as of the end of the run window, and a sync may take 45 minutes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from warehouse.interface import Reader

# Maximum age of the list. Each query reads all of raw.users: nine times in the longest run.
_FRESH = timedelta(minutes=5)
# A build that began before the tombstone may write a user back. The next nightly job deletes the rows; two, in case one failed.
_NIGHTS = timedelta(days=2)
# Without arrival times of profile versions, one dated before the window's end is noticed up to a day later.
_LATE = timedelta(days=1)


class SuppressionList(dict[str, str]):
    """Users that must not be sent, with the reason. `tombstones` are hashed ids of erased users that may still have rows."""

    tombstones: frozenset[str] = frozenset()


@dataclass
class Recheck:
    """Queries the raw tables, at most every five minutes.

    `since` is the end of the window, UTC. `outcomes` maps the name of each event that ends a journey to its outcome. Rows after
    `now` are ignored: in a replay the tables already hold them.
    """

    warehouse: Reader
    since: datetime
    outcomes: Mapping[str, str]
    now: Callable[[], datetime]
    _asked_at: datetime | None = field(default=None, init=False)
    _news: SuppressionList = field(default_factory=SuppressionList, init=False)
    _has_arrival: bool | None = field(default=None, init=False)

    def news(self) -> SuppressionList:
        """Users whose desired state must not be sent, with the reason: erased, no_consent, or an outcome."""
        now = self.now()
        if self._asked_at is None or not self._asked_at <= now < self._asked_at + _FRESH:
            self._asked_at = now
            self._news = self._ask(now)
        return self._news

    def _ask(self, now: datetime) -> SuppressionList:
        relation = self.warehouse.relation
        names = {f"name_{i}": name for i, name in enumerate(self.outcomes)}
        events = f"""
            select user_id, event_name from {relation("raw", "app_events")}
            where loaded_at >= $since and loaded_at < $now and event_name in ({", ".join(f"${name}" for name in names)})
        """
        profiles = self._profiles()
        # An interrupted erasure may have left the user in the desired state, however old the tombstone is.
        erasures = f"""
            select user_hash from {relation("ops", "erasures")}
            group by user_hash
            having max(case when step = 'tombstone' then recorded_at end) >= $since
                or count(case when step = 'marts.crm_profiles' and outcome = 'deleted' then 1 end) = 0
        """
        news = SuppressionList()
        news.tombstones = frozenset(
            self.warehouse.query(erasures, {"since": self.since - _NIGHTS}).column("user_hash").to_pylist()
        )
        if names:
            for row in self.warehouse.query(events, {"since": self.since, "now": now, **names}).to_pylist():
                news[row["user_id"]] = self.outcomes[row["event_name"]]
        moments = {"since": self.since, "day_before": self.since - _LATE, "now": now}
        for row in self.warehouse.query(profiles, moments).to_pylist():
            if row["is_erased"]:
                news[row["user_id"]] = "erased"
            else:
                news.setdefault(row["user_id"], "no_consent")
        return news

    def _profiles(self) -> str:
        """SQL for the users whose profile has changed since and who are now erased or without consent.

        The newest version is the one written last, even if an older one arrives after it. dbt's macro newest_version_first uses
        the same order. The app's table may lack the time of arrival.
        """
        if self._has_arrival is None:
            users = self.warehouse.relation("raw", "users")
            self._has_arrival = "loaded_at" in self.warehouse.schema(f"select * from {users}").names
        arrived = "loaded_at" if self._has_arrival else "cast(null as timestamp)"
        return f"""
            with versions as (
                select
                    user_id,
                    erased_at is not null as is_erased,
                    coalesce(marketing_consent, false) as has_consent,
                    updated_at,
                    coalesce({arrived}, updated_at) as loaded_at,
                    case when updated_at > {arrived} + interval 1 day then {arrived} else updated_at end as written_at
                from {self.warehouse.relation("raw", "users")}
            ),
            changed as (
                select distinct user_id from versions where loaded_at >= $since or updated_at >= $day_before
            ),
            newest as (
                select versions.* from versions
                inner join changed on versions.user_id = changed.user_id
                where versions.written_at < $now
                qualify row_number() over (
                    partition by versions.user_id order by versions.written_at desc, versions.is_erased desc, versions.has_consent
                ) = 1
            )
            select user_id, is_erased from newest where is_erased or not has_consent
        """


def suppressed(rows: pa.RecordBatch, news: Mapping[str, str]) -> tuple[pa.RecordBatch, Counter[str]]:
    """Drop pending rows that must not be sent any more. Returns the rest, and the number of dropped rows by reason.

    All rows of erased users are dropped. For users who finished or withdrew consent, grants and scores are dropped. Withdrawals
    are still sent, even with a score in them, so that a user who has finished does not keep a voucher for another hour.
    """
    reasons: Counter[str] = Counter()
    ids = rows.column("user_id")
    news = {**news, **_erased(ids, news)}
    named = pc.is_in(ids, pa.array(list(news), pa.string()))
    if not pc.any(named).as_py():
        return rows, reasons
    grants = pc.fill_null(rows.column("is_voucher_eligible"), False)
    scores = pc.and_not(pc.is_valid(rows.column("churn_probability")), rows.column("is_withdrawal"))
    tells = pc.or_(grants, scores)
    erased = pc.is_in(ids, pa.array([user for user, why in news.items() if why == "erased"], pa.string()))
    held_back = pc.or_(erased, pc.and_(named, tells))
    reasons.update(news[user] for user in ids.filter(held_back).to_pylist())
    return rows.filter(pc.invert(held_back)), reasons


def _erased(ids: pa.Array, news: Mapping[str, str]) -> dict[str, str]:
    """The ids that have a tombstone. Without tombstones, no id is hashed."""
    tombstones = news.tombstones if isinstance(news, SuppressionList) else frozenset()
    if not tombstones:
        return {}
    return {user: "erased" for user in ids.to_pylist() if hashlib.sha256(user.encode()).hexdigest() in tombstones}
