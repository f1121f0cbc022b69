"""Coverage of users by profiles: how many have one that was known in time, and the likely causes if not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from warehouse.interface import Reader

# Doctor checks the exits of this many days before the watermark, to limit what BigQuery reads.
RECENT_DAYS = 30
# Below this share of users with a known profile there is a warning. Few apps have a tenth of their users without an account.
ENOUGH_RATIO = 0.9


@dataclass(frozen=True)
class Coverage:
    """Users with an event or an exit (`of`), in three groups: known, later, and without a profile.

    `count_known`: a version of the profile was written before their last event or exit. `count_later`: all versions were written
    after it. `count_respelled`: users without a profile who have one under another spelling of the id.
    """

    of: str
    count_users: int
    count_known: int
    count_later: int
    count_respelled: int

    @property
    def count_without(self) -> int:
        """Users without any profile."""
        return self.count_users - self.count_known - self.count_later

    @property
    def is_enough(self) -> bool:
        """Whether the coverage is good."""
        return self.count_known >= ENOUGH_RATIO * self.count_users and not self.count_respelled

    @property
    def says(self) -> str:
        """The counts in one sentence, with the likely causes."""
        known = f"{self.count_known:,} of {self.count_users:,} users with an {self.of} have a profile known at their last one"
        causes = []
        if self.count_without:
            causes.append(f"{self.count_without:,} have no profile in raw.users")
        if self.count_respelled:
            causes.append(
                f"{self.count_respelled:,} of them have one under another spelling of the id, such as 000123 or 123.0 for 123"
            )
        if self.count_later:
            causes.append(
                f"{self.count_later:,} have only profiles with an updated_at after it, as in a snapshot of today"
            )
        return "; ".join([known, *causes])

    @property
    def do(self) -> tuple[str, ...]:
        """What to do about it."""
        steps = []
        if self.count_respelled:
            steps.append(
                "Write ids the same way in events and in users: as text, without leading zeros, .0, blanks or a prefix."
            )
        if self.count_later:
            steps.append(
                "Load the versions of each profile with the time they were written as updated_at. "
                "If there is only today's state, its updated_at may be the user's created_at."
            )
        if not steps and not self.is_enough:
            steps.append("Load the profiles of the other users: winback load --users FILE")
        return (" ".join(steps),) if steps else ()

    @property
    def warning(self) -> str | None:
        """The warning to show, or None if coverage is good."""
        text = f"{self.says}. Users without a known profile get no voucher. {' '.join(self.do)}"
        return None if self.is_enough else text


def coverage_of_events(warehouse: Reader) -> Coverage:
    """Return the coverage of all users with events, as of their last one. Reads all events, so use it on DuckDB only."""
    return _coverage(warehouse, "event", warehouse.relation("raw", "app_events"), "occurred_at")


def coverage_of_exits(warehouse: Reader, until: datetime | None = None) -> Coverage:
    """Return the coverage of users with unfinished exits, as of their last one: ever, or RECENT_DAYS before `until` (UTC)."""
    since = (until - timedelta(days=RECENT_DAYS)).date().isoformat() if until else "1970-01-01"
    exits = warehouse.relation("marts", "fct_unfinished_exits")
    return _coverage(warehouse, "exit", f"{exits} where not is_dissolved and exited_on >= date '{since}'", "exited_at")


def _coverage(warehouse: Reader, of: str, source: str, moment: str) -> Coverage:
    seen = f"""
        with seen as (
            select user_id, max({moment}) as last_at from {source} group by user_id
        ),
        profiles as (
            select user_id, min(updated_at) as first_at from {warehouse.relation("raw", "users")} group by user_id
        ),
        matched as (
            select seen.user_id, seen.last_at, profiles.first_at from seen
            left join profiles on seen.user_id = profiles.user_id
        )
    """
    counts = warehouse.query(f"""
        {seen}
        select
            count(*) as count_users,
            count(case when first_at <= last_at then 1 end) as count_known,
            count(case when first_at > last_at then 1 end) as count_later
        from matched
    """).to_pylist()[0]
    found = Coverage(of, **{name: int(number) for name, number in counts.items()}, count_respelled=0)
    if not found.count_without:
        return found
    spelling = warehouse.spelling_of("user_id")
    respelled = warehouse.query(f"""
        {seen},
        spellings as (
            select distinct {spelling} as spelling from profiles
        )
        select count(*) as n from (select {spelling} as spelling from matched where first_at is null) as missing
        inner join spellings on missing.spelling = spellings.spelling
    """)
    return Coverage(of, found.count_users, found.count_known, found.count_later, int(respelled.column("n")[0].as_py()))
