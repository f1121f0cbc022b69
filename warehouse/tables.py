"""Tables that Python writes, with their columns.

All tables are append-only; a current state is a view over the appended rows. dbt reads the `ops` tables as sources.
Times are UTC. A `?` in the design's raw tables is `required=False` here.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Column:
    """A column: its Arrow type and whether every row must have a value.

    `may_be_absent`: a raw table of the app may lack the column; the staging model defines the replacement.
    """

    name: str
    type: pa.DataType
    required: bool = True
    may_be_absent: bool = False


@dataclass(frozen=True)
class Table:
    """A table that Python writes. `key` identifies a row; with `is_unique` the warehouse enforces it.

    `partition_on` is the time column by whose day BigQuery partitions a growing table; queries must filter on it.
    """

    layer: str
    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    is_unique: bool = False
    partition_on: str | None = None

    @property
    def title(self) -> str:
        """Layer and name for people: `raw.app_events`."""
        return f"{self.layer}.{self.name}"

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of an append."""
        return pa.schema([pa.field(c.name, c.type, nullable=not c.required) for c in self.columns])


def fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Convert a batch to a table's columns, in their order and types; an absent optional column is null."""
    columns = [
        batch.column(field.name).cast(field.type)
        if field.name in batch.schema.names
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _columns(required: dict[str, pa.DataType], optional: dict[str, pa.DataType]) -> tuple[Column, ...]:
    return tuple(Column(n, t) for n, t in required.items()) + tuple(Column(n, t, False) for n, t in optional.items())


_TEXT, _NUMBER, _COUNT, _FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()

APP_EVENTS = Table(
    "raw",
    "app_events",
    # A delivery. Apps reuse ids for other users and names and restart counters, so a difference in any of these is another event.
    ("user_id", "event_id", "event_name", "occurred_at", "loaded_at"),
    _columns(
        {
            "event_id": _TEXT,
            "user_id": _TEXT,
            "event_name": _TEXT,
            "occurred_at": TIMESTAMP,
            "loaded_at": TIMESTAMP,
        },
        {"device_type": _TEXT, "step": _TEXT, "fields_filled_ratio": _NUMBER, "properties": _TEXT},
    ),
    partition_on="loaded_at",
)

USERS = Table(
    "raw",
    "users",
    ("user_id", "updated_at"),
    (
        *_columns(
            {"user_id": _TEXT, "created_at": TIMESTAMP, "updated_at": TIMESTAMP, "marketing_consent": _FLAG},
            {
                "age": _COUNT,
                "income": _NUMBER,
                "employment_type": _TEXT,
                "marital_status": _TEXT,
                "previous_year_filing": _FLAG,
                "referral_source": _TEXT,
                "country": _TEXT,
                "erased_at": TIMESTAMP,
            },
        ),
        Column("loaded_at", TIMESTAMP, required=False, may_be_absent=True),
    ),
)

VOUCHER_REDEMPTIONS = Table(
    "raw",
    "voucher_redemptions",
    ("redemption_id",),
    _columns(
        {
            "redemption_id": _TEXT,
            "user_id": _TEXT,
            "campaign": _TEXT,
            "redeemed_at": TIMESTAMP,
            "loaded_at": TIMESTAMP,
        },
        {},
    ),
)

RUNS = Table(
    "ops",
    "runs",
    ("epoch",),
    _columns(
        {
            "epoch": _COUNT,
            "run_id": _TEXT,
            "kind": _TEXT,  # backfill | hourly | repair
            "window_from": TIMESTAMP,
            "window_until": TIMESTAMP,
            "count_exits": _COUNT,
            "count_scored": _COUNT,
            "count_skipped": _COUNT,
            "count_eligible": _COUNT,
            "committed_at": TIMESTAMP,
        },
        # The keys of funnel.yml that shaped the tables, as JSON (jobs/transform/shape.py).
        {"model_version": _TEXT, "policy_version": _TEXT, "funnel": _TEXT},
    ),
    is_unique=True,
)

DECISIONS = Table(
    "ops",
    "decisions",
    ("exit_id", "run_id"),
    _columns(
        {
            "exit_id": _TEXT,
            "user_id": _TEXT,
            "exited_at": TIMESTAMP,
            "run_id": _TEXT,
            "epoch": _COUNT,
            "decided_at": TIMESTAMP,
            "disposition": _TEXT,  # scored | skipped
            "is_eligible": _FLAG,
        },
        {
            "skip_reason": _TEXT,
            "churn_probability": _NUMBER,
            "churn_risk_band": _TEXT,
            "churn_reasons": _TEXT,
            "model_version": _TEXT,
            "policy_version": _TEXT,
            "experiment_arm": _TEXT,
            "eligibility_reason": _TEXT,
            "valid_until": TIMESTAMP,
        },
    ),
    partition_on="decided_at",
)

# The challenger's scores for the exits that a run scored. For people; no run reads them.
SHADOW_SCORES = Table(
    "ops",
    "shadow_scores",
    ("exit_id", "run_id"),
    _columns(
        {
            "exit_id": _TEXT,
            "user_id": _TEXT,  # for erasure
            "run_id": _TEXT,
            "model_version": _TEXT,
            "churn_probability": _NUMBER,
            "scored_at": TIMESTAMP,  # the end of the run's window, equal to decided_at of the decision
        },
        {},
    ),
    partition_on="scored_at",
)

# The CRM's values for a user, in the order of the design's section "In the CRM".
CRM_STATE: dict[str, pa.DataType] = {
    "churn_probability": _NUMBER,
    "churn_risk_band": _TEXT,
    "churn_reasons": _TEXT,
    "churn_scored_at": TIMESTAMP,
    "churn_model_version": _TEXT,
    "is_voucher_eligible": _FLAG,
    "voucher_reason": _TEXT,
    "voucher_valid_until": TIMESTAMP,
    "experiment_arm": _TEXT,
}

DELIVERIES = Table(
    "ops",
    "deliveries",
    ("user_id", "run_id"),
    _columns(
        {
            "run_id": _TEXT,
            "epoch": _COUNT,
            "user_id": _TEXT,
            "desired_hash": _TEXT,
            "fields_sent": _TEXT,
            "attempted_at": TIMESTAMP,
            # sending: before the request; then delivered | rejected | deferred (not sent).
            # retry: a person requested a retry of a dead letter
            "outcome": _TEXT,
        },
        # The state that the CRM holds, or may hold, after the delivery. The reason is the CRM's sentence without its quotes.
        # crm_number: the CRM in ops.crms that received the row. Null in rows of earlier versions, which count as 0.
        {"http_status": _COUNT, "error_code": _TEXT, "error_reason": _TEXT, **CRM_STATE, "crm_number": _COUNT},
    ),
    partition_on="attempted_at",
)

REPORTS = Table(
    "ops",
    "reports",
    ("run_id",),
    _columns(
        {
            "run_id": _TEXT,
            "epoch": _COUNT,
            "window_until": TIMESTAMP,
            "started_at": TIMESTAMP,
            "ended_at": TIMESTAMP,
            "count_events": _COUNT,
            "count_events_late": _COUNT,
            "count_events_too_late": _COUNT,
            "count_delivered": _COUNT,
            "count_rejected": _COUNT,
            "count_deferred": _COUNT,
            "count_suppressed": _COUNT,
            "count_unchanged": _COUNT,
        },
        # Number of users with a score in the desired state; null if the sync did not start.
        {"stopped_because": _TEXT, "count_audience": _COUNT},
    ),
)

AUDITS = Table(
    "ops",
    "audits",
    ("audit_id", "table_name"),
    _columns(
        {
            "audit_id": _TEXT,
            "audited_at": TIMESTAMP,
            "audited_until": TIMESTAMP,  # the watermark up to which both sides were built
            "table_name": _TEXT,
            "sample_percent": _COUNT,
            "count_users": _COUNT,
            "count_rows": _COUNT,
            "count_rows_differing": _COUNT,  # rows that only one side has; 0 is expected
        },
        {},
    ),
)

# Results of each nightly job. A run reads the time from which it must rebuild.
NIGHTS = Table(
    "ops",
    "nights",
    ("night_id",),
    _columns(
        {
            "night_id": _TEXT,
            "rebuilt_at": TIMESTAMP,
            "window_from": TIMESTAMP,
            "window_until": TIMESTAMP,  # the watermark at that time
            "count_events_missed": _COUNT,  # raw rows that no run window had included
            "count_users_corrected": _COUNT,  # the largest count of the tables
        },
        # When the missed rows were loaded, and the time from which a build includes all of them; null without missed rows.
        {"first_missed_at": TIMESTAMP, "last_missed_at": TIMESTAMP, "build_from": TIMESTAMP},
    ),
)

ERASURES = Table(
    "ops",
    "erasures",
    ("erasure_id", "step"),
    _columns(
        {
            "erasure_id": _TEXT,
            "user_hash": _TEXT,  # SHA-256 of the user's id, in hex: recognises the user without naming them
            "requested_at": TIMESTAMP,
            "recorded_at": TIMESTAMP,
            "step": _TEXT,  # tombstone | crm | a table's name
            "outcome": _TEXT,  # written | deleted | rejected | deferred | kept
        },
        {"count_rows": _COUNT, "http_status": _COUNT, "error_code": _TEXT},
    ),
)

LEASES = Table(
    "ops",
    "leases",
    ("lease",),
    _columns(
        {
            "lease": _COUNT,  # 0, 1, 2, ...: the run that appends the next number has the lease
            "run_id": _TEXT,
            "taken_at": TIMESTAMP,
            "expires_at": TIMESTAMP,
            "window_from": TIMESTAMP,  # start of the holder's run window; its unfinished work lies after it
            "is_released": _FLAG,
        },
        {},
    ),
    is_unique=True,
)

# The CRMs that the warehouse has served, one after another (warehouse/crms.py).
CRMS = Table(
    "ops",
    "crms",
    ("number",),
    _columns(
        {
            "number": _COUNT,  # 0, 1, 2, ...
            "crm": _TEXT,  # its identity: name and host, never the key
            "adopted_at": TIMESTAMP,
            "state_from": _COUNT,  # deliveries to CRMs with a lower number do not count as acknowledged
            "kind": _TEXT,  # first | replaced | moved | forgetting | switched
        },
        {},
    ),
    is_unique=True,
)

# The finished steps of `winback migrate`. A backfill writes all of them; a missing step means that an earlier version created the
# warehouse. So the table is not in ALL, whose tables every run creates if they are missing.
MIGRATIONS = Table("ops", "migrations", ("step",), _columns({"step": _TEXT, "migrated_at": TIMESTAMP}, {}))

RAW = {"events": APP_EVENTS, "users": USERS, "redemptions": VOUCHER_REDEMPTIONS}
ALL = (
    *(APP_EVENTS, USERS, VOUCHER_REDEMPTIONS),
    *(RUNS, DECISIONS, SHADOW_SCORES, DELIVERIES, REPORTS, AUDITS, NIGHTS, ERASURES, LEASES, CRMS),
)
