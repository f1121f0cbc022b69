"""Bytes that BigQuery bills an hour, model by model, and their cost.

It multiplies bytes per row, rows per day and days, for each statement of an hour. `READS` was derived from the SQL that dbt
sends. tests/dbt/bigquery/test_cost_table.py derives it again, and fails if the two differ or docs/explanation/cost.md has
other numbers.

    python bench/bytes_an_hour.py
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

GB = 10**9
TIMES = "\N{MULTIPLICATION SIGN}"
USERS = (1_000_000, 10_000_000, 100_000_000)
HOURS_A_MONTH = 720
# On demand: https://cloud.google.com/bigquery/pricing
DOLLARS_PER_TIB, FREE_TIB_A_MONTH = 6.25, 1
MINIMUM_BYTES = 10 * 2**20  # minimum per table that a query names
DATA_TESTS, JOB = "data tests", "the job itself"

# A text costs 2 bytes plus its length (usual lengths below), a flag 1 byte, anything else 8. Nulls cost nothing but are counted
# here as values: https://cloud.google.com/bigquery/pricing#data
LENGTHS = {
    "user_id": 16, "event_id": 36, "exit_id": 32, "session_id": 32, "arrival_id": 32, "run_id": 34, "redemption_id": 36,
    "desired_hash": 32, "rejected_hash": 32, "rejected_code": 20, "error_code": 20, "error_reason": 60,
    "rejected_reason": 60, "user_hash": 64, "erasure_id": 25, "fields_sent": 110,
    "event_name": 12, "last_event_name": 12, "device_type": 7, "step": 8, "properties": 80, "outcome": 8, "campaign": 6,
    "employment_type": 9, "marital_status": 7, "referral_source": 15, "country": 2, "kind": 6, "disposition": 7,
    "skip_reason": 9, "broken_rule": 12, "eligibility_reason": 14, "voucher_reason": 14, "last_refusal": 14, "experiment_arm": 9,
    "churn_risk_band": 5, "last_risk_band": 5, "churn_reasons": 90, "last_reasons": 90, "model_version": 25,
    "churn_model_version": 25, "last_model_version": 25, "policy_version": 12, "funnel": 560,
}  # fmt: skip
FLAGS = {
    "marketing_consent", "previous_year_filing", "has_profile", "has_marketing_consent", "is_dissolved", "is_eligible",
    "is_erased", "is_voucher_eligible", "is_treated", "is_withdrawal", "is_in_doubt", "is_too_long", "is_cut",
    "is_session_too_long",
}  # fmt: skip

# Counts of the synthetic app: 10,438 sessions and 147,373 events of 5,000 users in 50 days; 0.8 of the sessions end in an exit.
SESSIONS = 0.05  # per user and day
EVENTS, EXITS = 14 * SESSIONS, 0.8 * SESSIONS
ROWS_A_DAY = {  # per user
    "app_events": EVENTS,
    "int_events__deduplicated": EVENTS,
    "int_sessions": SESSIONS,
    "fct_unfinished_exits": EXITS,
    "fct_exit_features": EXITS,
    "fct_exit_features_logged": EXITS,
    "decisions": EXITS,
    "deliveries": 2 * EXITS,  # one before it is sent, one after the CRM's reply
    "fct_late_events": EVENTS / 1000,
}
ROWS_EVER = {  # per user
    "users": 1.1,
    "voucher_redemptions": 0.01,
    "int_outcomes": 0.4,
    "crm_profiles": 0.6,
    "crm_acknowledged": 0.6,
    "erasures": 0.01,  # one user in 2,500 was erased, with 25 receipts each
    "fct_training_examples": EXITS * 713,  # 730 days, but the last 17 have not matured
}
ROWS_AN_HOUR = {  # per user; tables that each run rebuilds
    "int_users_touched": SESSIONS / 24,
    "int_sessions_this_run": SESSIONS / 24,
    "int_exits_this_run": EXITS / 24,
    "fct_scoring_candidates": EXITS / 24,
    "int_users_set_aside": SESSIONS / 24 / 1000,
    # Rows that a merge writes, in a table of their own.
    "int_events__deduplicated__dbt_tmp": EVENTS / 24,
    "int_sessions__dbt_tmp": SESSIONS / 24,
    "fct_late_events__dbt_tmp": EVENTS / 1000 / 24,
    **{
        f"{name}__dbt_tmp": EXITS / 24
        for name in (
            *("fct_unfinished_exits", "fct_exit_features", "fct_exit_features_logged"),
            *("crm_profiles", "crm_acknowledged"),
        )
    },
}
ROWS_OF_A_YEAR = 8760  # tables with one row per hour: runs, fct_arrivals


@dataclass(frozen=True)
class Read:
    """Columns of a table that a model's statements read in an hour: the sum of their bytes per row, over a number of days.

    `days` are partitions, including the run's day; None is the whole table. A merge reads and is billed for every column of the
    days that it may write. Each of `statements` pays at least the minimum.
    """

    by: str
    table: str
    days: int | None
    row_bytes: int
    statements: int = 1
    is_merge: bool = False

    def bytes_billed(self, users: int) -> float:
        """Return the bytes billed per hour."""
        return max(self.row_bytes * rows(self.table, self.days, users), self.statements * MINIMUM_BYTES)


READS: tuple[Read, ...] = (
    Read("fct_arrivals", "app_events", 1, 113),
    Read("fct_arrivals", "fct_arrivals__dbt_tmp", None, 104),
    Read("fct_arrivals", "erasures", None, 76),
    Read("fct_arrivals", "int_users_touched", None, 26),
    Read("fct_arrivals", "int_sessions", 6, 36),
    Read("fct_arrivals", "fct_arrivals", None, 104, is_merge=True),
    Read("fct_arrivals", "users", None, 43),
    Read("fct_late_events", "app_events", 1, 86),
    Read("fct_late_events", "fct_late_events__dbt_tmp", None, 136),
    Read("fct_late_events", "erasures", None, 76),
    Read("fct_late_events", "fct_late_events", 1, 136, is_merge=True),
    Read("int_events__deduplicated", "int_events__deduplicated", 6, 86),
    Read("int_events__deduplicated", "app_events", 1, 113),
    Read("int_events__deduplicated", "int_events__deduplicated__dbt_tmp", None, 131),
    Read("int_events__deduplicated", "erasures", None, 76),
    Read("int_events__deduplicated", "int_events__deduplicated", 6, 131, is_merge=True),
    Read("int_outcomes", "app_events", 1, 86),
    Read("int_outcomes", "int_outcomes", None, 74),
    Read("int_outcomes", "erasures", None, 76),
    Read("int_outcomes", "int_outcomes", None, 92, is_merge=True),
    Read("int_users_touched", "app_events", 1, 72),
    Read("int_users_touched", "erasures", None, 76),
    Read("int_sessions_this_run", "int_events__deduplicated", 6, 121),
    Read("int_sessions_this_run", "int_users_touched", None, 26),
    Read("int_sessions", "int_sessions", 6, 228),
    Read("int_sessions", "int_sessions__dbt_tmp", None, 230),
    Read("int_sessions", "int_sessions_this_run", None, 229),
    Read("int_sessions", "int_users_touched", None, 26),
    Read("int_sessions", "int_sessions", 6, 230, is_merge=True),
    Read("int_exits_this_run", "int_sessions", 6, 71),
    Read("int_exits_this_run", "int_outcomes", None, 26),
    Read("int_exits_this_run", "int_users_touched", None, 26),
    Read("fct_unfinished_exits", "fct_unfinished_exits", 6, 111),
    Read("fct_unfinished_exits", "fct_unfinished_exits__dbt_tmp", None, 112),
    Read("fct_unfinished_exits", "int_exits_this_run", None, 111),
    Read("fct_unfinished_exits", "int_users_touched", None, 26),
    Read("fct_unfinished_exits", "fct_unfinished_exits", 6, 112, is_merge=True),
    Read("fct_exit_features", "int_sessions", 96, 220),
    Read("fct_exit_features", "users", None, 105),
    Read("fct_exit_features", "fct_exit_features__dbt_tmp", None, 440),
    Read("fct_exit_features", "int_exits_this_run", None, 110),
    Read("fct_exit_features", "erasures", None, 76),
    Read("fct_exit_features", "fct_exit_features", 6, 440, is_merge=True),
    Read("fct_exit_features_logged", "fct_exit_features", 6, 440),
    Read("fct_exit_features_logged", "fct_exit_features_logged", 6, 42),
    Read("fct_exit_features_logged", "fct_exit_features_logged__dbt_tmp", None, 440),
    Read("fct_exit_features_logged", "int_exits_this_run", None, 34),
    Read("fct_exit_features_logged", "fct_exit_features_logged", 6, 440, is_merge=True),
    Read("int_users_set_aside", "fct_exit_features_logged", 6, 76),
    Read("int_users_set_aside", "fct_unfinished_exits", 6, 103),
    Read("int_users_set_aside", "int_outcomes", None, 26),
    Read("int_users_set_aside", "int_sessions", 6, 78),
    Read("int_users_set_aside", "int_users_touched", None, 18),
    Read("fct_scoring_candidates", "decisions", 61, 63),
    Read("fct_scoring_candidates", "fct_exit_features_logged", 6, 414),
    Read("fct_scoring_candidates", "users", None, 43),
    Read("fct_scoring_candidates", "fct_unfinished_exits", 6, 78),
    Read("fct_scoring_candidates", "int_outcomes", None, 28),
    Read("fct_scoring_candidates", "decisions", 6, 34),
    Read("fct_scoring_candidates", "voucher_redemptions", None, 34),
    Read("fct_scoring_candidates", "runs", None, 68),
    Read("fct_scoring_candidates", "erasures", None, 76),
    Read("fct_scoring_candidates", "int_users_set_aside", None, 18),
    Read("crm_profiles", "crm_profiles", None, 236),
    Read("crm_profiles", "users", None, 43),
    Read("crm_profiles", "int_outcomes", None, 36),
    Read("crm_profiles", "decisions", 1, 249),
    Read("crm_profiles", "crm_profiles__dbt_tmp", None, 405),
    Read("crm_profiles", "voucher_redemptions", None, 34),
    Read("crm_profiles", "runs", None, 68),
    Read("crm_profiles", "erasures", None, 76),
    Read("crm_profiles", "crm_profiles", None, 405, is_merge=True),
    Read("crm_acknowledged", "crm_acknowledged", None, 662, 2),
    Read("crm_acknowledged", "deliveries", 2, 768, 2),
    Read("crm_acknowledged", "crm_acknowledged__dbt_tmp", None, 662, 2),
    Read("crm_acknowledged", "erasures", None, 152, 2),
    Read("crm_acknowledged", "crm_acknowledged", None, 662, 2, is_merge=True),
    Read(DATA_TESTS, "int_events__deduplicated", 6, 78),
    Read(DATA_TESTS, "crm_acknowledged", None, 68, 2),
    Read(DATA_TESTS, "crm_profiles", None, 108, 5),
    Read(DATA_TESTS, "app_events", 1, 72),
    Read(DATA_TESTS, "int_sessions", 6, 42),
    Read(DATA_TESTS, "fct_unfinished_exits", 6, 69, 2),
    Read(DATA_TESTS, "int_outcomes", None, 44, 2),
    Read(DATA_TESTS, "decisions", 6, 96),
    Read(DATA_TESTS, "fct_exit_features_logged", 6, 42),
    Read(DATA_TESTS, "users", None, 26),
    Read(DATA_TESTS, "fct_exit_features", 6, 42),
    Read(DATA_TESTS, "decisions", 1, 71),
    Read(DATA_TESTS, "deliveries", 1, 36),
    Read(DATA_TESTS, "runs", None, 144, 3),
    Read(DATA_TESTS, "fct_scoring_candidates", None, 45, 2),
    Read(DATA_TESTS, "int_users_touched", None, 18),
    Read(DATA_TESTS, "fct_arrivals", None, 8),
    Read(DATA_TESTS, "fct_late_events", 1, 42),
    Read(DATA_TESTS, "int_exits_this_run", None, 34),
    Read(DATA_TESTS, "int_sessions_this_run", None, 34),
    Read(DATA_TESTS, "erasures", None, 228, 3),
    Read(DATA_TESTS, "int_users_set_aside", None, 50, 2),
    Read(JOB, "crm_acknowledged", None, 443, 2),
    Read(JOB, "crm_profiles", None, 435, 3),
    Read(JOB, "app_events", 1, 40),
    Read(JOB, "erasures", None, 94),
    Read(JOB, "users", None, 43),
)
TRAINING: tuple[Read, ...] = (
    Read(DATA_TESTS, "fct_training_examples", None, 61, 4),
    Read("fct_training_examples", "fct_exit_features_logged", 731, 440),
    Read("fct_training_examples", "decisions", 821, 127),
    Read("fct_training_examples", "fct_unfinished_exits", 731, 70),
    Read("fct_training_examples", "int_outcomes", None, 34),
    Read("fct_training_examples", "runs", None, 68),
    Read("fct_training_examples", "erasures", None, 76),
)


def width(column: str) -> int:
    """Return the bytes of one value."""
    return 2 + LENGTHS[column] if column in LENGTHS else 1 if column in FLAGS else 8


def rows(table: str, days: int | None, users: int) -> float:
    """Return the number of rows in this many days of a table, or in all of it, for an app with this many users."""
    if days:
        return ROWS_A_DAY[table] * days * users
    if table in ROWS_EVER:
        return ROWS_EVER[table] * users
    return ROWS_AN_HOUR[table] * users if table in ROWS_AN_HOUR else ROWS_OF_A_YEAR


def billed(reads: Iterable[Read], users: int) -> float:
    """Return the bytes that BigQuery bills for the reads."""
    return sum(read.bytes_billed(users) for read in reads)


def dollars(count_bytes: float, *, free_tib: float = 0) -> float:
    """Return the on-demand price of these bytes."""
    return max(count_bytes / 2**40 - free_tib, 0) * DOLLARS_PER_TIB


def page() -> str:
    """Return the tables of the guide, in Markdown."""
    return "\n".join([*_assumptions(), "", *_models(), "", *_totals(), "", *_largest()])


def _assumptions() -> Iterator[str]:
    yield "| a user makes | rows of |"
    yield "|---|---|"
    for rows_per_user, unit in ((ROWS_A_DAY, "a day"), (ROWS_EVER, "in all")):
        for count in dict.fromkeys(rows_per_user.values()):
            names = ", ".join(f"`{name}`" for name, its in rows_per_user.items() if its == count)
            yield f"| {count:.4g} {unit} | {names} |"


def _models() -> Iterator[str]:
    sizes = " | ".join(f"GB at {users // 10**6} M users" for users in USERS)
    yield f"| model | reads: bytes a row {TIMES} days | merges into itself | {sizes} |"
    yield "|---|---|---|" + "--:|" * len(USERS)
    for by in dict.fromkeys(read.by for read in READS):
        yield _row(by if by in (DATA_TESTS, JOB) else f"`{by}`", [read for read in READS if read.by == by])
    yield _row("**all, an hour**", READS, is_told=False)
    yield _row("for a training: `fct_training_examples`", TRAINING)


def _row(name: str, reads: Iterable[Read], *, is_told: bool = True) -> str:
    reads = list(reads)
    large = [read for read in reads if read.days or read.table in ROWS_EVER]
    told = [f"`{read.table}` {_factors(read)}" for read in large if not read.is_merge]
    if len(large) < len(reads):
        told.append(f"{len(reads) - len(large)} small")
    merges = [_factors(read) for read in large if read.is_merge]
    cells = [name, ", ".join(told) if is_told else "", ", ".join(merges) if is_told else ""]
    return f"| {' | '.join([*cells, *(_gigabytes(billed(reads, users)) for users in USERS)])} |"


def _factors(read: Read) -> str:
    return f"{read.row_bytes} {TIMES} {read.days or 'all'}"


def _gigabytes(count_bytes: float) -> str:
    return f"{count_bytes / GB:,.{2 if count_bytes < 10 * GB else 0}f}"


def _totals() -> Iterator[str]:
    yield "| users | an hour | of that, tables of users | a month of 720 hours | its price, the first TiB free | a training |"
    yield "|--:|--:|--:|--:|--:|--:|"
    for users in (0, *USERS):
        hour, training = billed(READS, users), billed(TRAINING, users)
        of_users = billed((read for read in READS if read.table in ROWS_EVER), users)
        month = hour * HOURS_A_MONTH
        cells = [
            f"{users // 10**6} million" if users else "few: the minimum alone",
            f"{hour / GB:,.1f} GB",
            f"{of_users / hour:.0%}",
            f"{month / 2**40:,.1f} TiB",
            f"${dollars(month, free_tib=FREE_TIB_A_MONTH):,.0f}",
            f"${dollars(training):,.2f}",
        ]
        yield f"| {' | '.join(cells)} |"


def _largest() -> Iterator[str]:
    users = USERS[-1]
    yield f"| table | GB an hour at {users // 10**6} M users | share | read or merged by, the most first |"
    yield "|---|--:|--:|---|"
    by_table = {
        table: [read for read in READS if read.table == table] for table in dict.fromkeys(read.table for read in READS)
    }
    for table, reads in sorted(by_table.items(), key=lambda entry: -billed(entry[1], users))[:8]:
        count_bytes = billed(reads, users)
        largest_first = sorted(reads, key=lambda read: (-read.bytes_billed(users), read.by))
        readers = ", ".join(f"{read.by}{' (merge)' if read.is_merge else ''}" for read in largest_first)
        yield f"| `{table}` | {_gigabytes(count_bytes)} | {count_bytes / billed(READS, users):.0%} | {readers} |"


if __name__ == "__main__":
    print(page())
