"""Reference model of the sync: what must be true of the CRM, of the log and of a sync at any time.

It is checked after every step, from outside: against the CRM's own history of writes, the rows of ops.deliveries, and every batch
as it was sent.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from crm_sync.field_mapping import METADATA_FIELDS
from tests.support.invariants import canonical
from tests.support.sync.hours import Hours
from tests.support.sync.recorder import Sync

# By user and run: the delivered states, and the states that were sent without a reply.
_MAY_BE_KNOWN = """
    select user_id, run_id from ops.deliveries
    where outcome <> 'retry'
    group by user_id, run_id
    having bool_or(outcome = 'delivered') or bool_and(outcome = 'sending')
"""


class Oracle:
    """Follows one example."""

    def __init__(self, hours: Hours) -> None:
        self.hours = hours
        self._held: dict[str, dict[str, Any]] = defaultdict(dict)
        self._last_write, self._syncs, self._logged = 0, 0, set[tuple[str, str]]()

    def look(self, news: Mapping[str, str]) -> None:
        """Check everything since the last call. The argument maps users who must not be sent to the reason."""
        syncs, self._syncs = self.hours.syncs[self._syncs :], len(self.hours.syncs)
        rows = self.hours.tables.dicts("select * from ops.deliveries where outcome in ('delivered', 'rejected')")
        assert len({(row["user_id"], row["run_id"]) for row in rows}) == len(rows), "two words on a user in one run"
        fresh = {(r["user_id"], r["run_id"]): r for r in rows if (r["user_id"], r["run_id"]) not in self._logged}
        self._logged |= fresh.keys()
        intended = self.hours.tables.rows("select user_id, run_id from ops.deliveries where outcome = 'sending'")
        for sync in syncs:
            self._of_one(sync, news, intended)
            of_run = Counter(row["outcome"] for (_, run_id), row in fresh.items() if run_id == sync.run_id)
            if sync.counts:
                assert (sync.counts.delivered, sync.counts.rejected) == (of_run["delivered"], of_run["rejected"])
        self._deliveries_are_true(fresh)

    def _of_one(self, sync: Sync, news: Mapping[str, str], intended: Sequence[tuple[str, str]]) -> None:
        desired = self.hours.tables.desired()
        known = {user for user, run_id in self.hours.tables.rows(_MAY_BE_KNOWN) if run_id != sync.run_id}
        answered = Counter(user for call in sync.calls if call.end != "refused" for user in call.told)
        assert all(count == 1 for count in answered.values()), "a user was sent twice in one run"
        has_granted = False
        for call in sync.calls:
            away = {user for user, told in call.told.items() if sync.takes_away(user, told)}
            assert not (away and has_granted), "a voucher was taken away after others were granted one"
            grants = {user for user, told in call.told.items() if told.get(self.hours.voucher) is True}
            assert not (grants and call.during), "a grant went out before a withdrawal had its answer"
            has_granted |= bool(grants)
            for user, told in call.told.items():
                assert (user, sync.run_id) in intended, "sent before it was written down that it would be"
                self._may_be_told(user, told, news.get(user), desired[user], known)
                cleared = {self.hours.fields[name] for name, value in told.items() if value is None}
                assert all(self.hours.mapping.fields[name].clearable for name in cleared), (
                    "cleared what may not be cleared"
                )
        if sync.counts:
            assert sync.counts.is_complete, "the counts do not add up"
            if sync.trouble.kind != "overtaken":
                assert sync.counts.differing == sync.pending, "rows are missing from the counts"

    def _may_be_told(
        self, user: str, told: Mapping[str, Any], news: str | None, desired: Mapping[str, Any], known: set[str]
    ) -> None:
        is_erased = desired["is_erased"] or news == "erased"
        assert not is_erased, "an erased user was told"
        if news:
            assert told.get(self.hours.voucher) is not True, "a voucher was granted to somebody who is not to have it"
            is_score = told.get(self.hours.score) is not None
            assert not is_score or told.get(self.hours.voucher) is False, "a score was told of somebody with news"
        has_nothing = desired["churn_probability"] is None
        assert not has_nothing or user in known, "told that there is nothing to say, without ever having said anything"

    def _deliveries_are_true(self, fresh: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
        delivered = {key: row for key, row in fresh.items() if row["outcome"] == "delivered"}
        true: set[tuple[str, str]] = set()
        sql = "select id, external_id, run_id, changed from writes where id > ? order by id"
        for number, user, run_id, changed in self.hours.crm.store.database.rows(sql, (self._last_write,)):
            self._last_write = number
            held = self._held[user]
            for name, (_, after) in json.loads(changed).items():
                assert (
                    after is not None
                    or name not in self.hours.kept
                    or self.hours.mapping.fields[self.hours.kept[name]].clearable
                ), f"{name} was cleared"
                held[name] = after
            row = delivered.get((user, run_id))
            if row and all(_is_same(row[field], held.get(name), field) for name, field in self.hours.kept.items()):
                true.add((user, run_id))
        assert delivered.keys() <= true, "a delivery is logged that the CRM knows nothing of, or another one"

    def holds_the_desired_state(self, news: Mapping[str, str]) -> None:
        """Check that after a clean run the CRM holds every allowed desired state, except dead letters. Nothing is pending."""
        tables = self.hours.tables
        dead = dict(
            tables.rows("select user_id, rejected_hash from marts.crm_acknowledged where rejected_hash is not null")
        )
        for user, desired in tables.desired().items():
            held = self.hours.crm.store.profile(user)
            if desired["is_erased"] or user in news or dead.get(user) == desired["desired_hash"] or held is None:
                nobody = desired["churn_probability"] is None
                assert held is not None or nobody or desired["is_erased"] or user in news or user in dead, "never told"
                continue
            for name, field in self.hours.kept.items():
                if field not in METADATA_FIELDS and not (
                    desired[field] is None and not self.hours.mapping.fields[field].clearable
                ):
                    self._holds(user, name, desired[field], held.get(name))
        view = "select user_id from marts.crm_pending where suppressed_because is null"
        assert {user for (user,) in tables.rows(view)} <= news.keys(), "a clean run left something pending"

    def _holds(self, user: str, name: str, desired: Any, held: Any) -> None:
        field = self.hours.kept[name]
        if field == "churn_probability" and None not in (desired, held):
            assert round(abs(desired - float(held)), 4) < self.hours.mapping.churn_probability_step, f"{user}: {name}"
        else:
            assert _is_same(desired, held, field), f"{user}: {name} is {held!r}, desired {desired!r}"


def _is_same(one: Any, other: Any, field: str) -> bool:
    return bool(canonical(one, field) == canonical(other, field))
