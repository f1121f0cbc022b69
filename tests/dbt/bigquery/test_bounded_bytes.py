"""Bounded bytes: every statement on BigQuery has a lower bound for each table that grows with time."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.dbt.on_bigquery import Recording, partitions, record
from tests.support.dbt.partition_bounds import violations

BIG = {"raw.app_events": "loaded_at", "staging.stg_app__events": "loaded_at", "int_sessions": "started_on"}

GOOD = {
    "a literal date": "select * from x.int_sessions where started_on >= date '2026-03-05' and not is_dissolved",
    "a literal moment": "select * from `p`.`raw`.`app_events` where loaded_at > timestamp '2026-03-05 00:00:00+00'",
    "a literal converted": "select * from raw.app_events where loaded_at >= cast(date '2026-03-05' as timestamp)",
    "a parameter": "select * from raw.app_events where loaded_at >= @since",
    "a literal on the left": "select * from raw.app_events where timestamp '2026-03-05' <= loaded_at",
    "one day": "select * from x.int_sessions where started_on = date '2026-03-05'",
    "some days": "select * from x.int_sessions where started_on in (date '2026-03-05', date '2026-03-06')",
    "a span of days": "select * from x.int_sessions as s where s.started_on between date '2026-03-05' and date '2026-03-06'",
    "a bound within nested parentheses": "select * from x.int_sessions where ((started_on >= date '2026-03-05') and (a or b))",
    "a bound beside what hides the column": """select * from raw.app_events
        where date(loaded_at) >= date '2026-03-05' and loaded_at >= timestamp '2026-03-05'""",
    "a max over bounded days": "select max(loaded_at) from raw.app_events where loaded_at >= timestamp '2026-03-05'",
    "a bound in an inner join": """select 1 from small
        join x.int_sessions as s on small.id = s.id and s.started_on >= date '2026-03-05'""",
    "a bound on the right of a left join": """select 1 from small
        left join x.int_sessions as s on small.id = s.id and s.started_on >= date '2026-03-05'""",
    "a bound after a left join": """select 1 from small
        left join x.int_sessions as s on small.id = s.id where s.started_on >= date '2026-03-05'""",
    "a bound in an exists": """select * from small where not exists
        (select 1 from x.int_sessions as s where s.id = small.id and s.started_on >= date '2026-03-05')""",
    "a name that is an expression of this query": "with int_sessions as (select 1 as a) select * from int_sessions",
    "a table of another dataset": "select * from audit_raw.app_events_of_another",
    "a delete": "delete from x.int_sessions where started_on >= date '2026-03-05' and user_id = 'u'",
    "an update": "update x.int_sessions set a = 1 where started_on = date '2026-03-05'",
    "a merge": """merge into x.int_sessions as d using (select * from x.int_sessions__dbt_tmp) as s
        on (d.started_on >= date '2026-03-05') and ((`d`.`started_on` is null or `d`.`started_on` is not null))
        and (s.id = d.id) when matched then update set a = s.a when not matched then insert (a) values (a)""",
    "a merge that replaces days": """merge into x.int_sessions as d using t as s on false
        when not matched by source and d.started_on >= date '2026-03-05' then delete
        when not matched then insert (a) values (a)""",
    "an insert": "insert into x.int_sessions (a) select 1",
    "a table made from little": "create or replace table x.int_sessions partition by started_on as (select 1 as a)",
    "a renaming view": "create or replace view staging.stg_app__events as select * from raw.app_events",
    "what reads no rows": """alter table x.int_sessions add column b int64; truncate table x.int_sessions;
        drop table x.int_sessions; create table a clone x.int_sessions;
        select * from raw.INFORMATION_SCHEMA.PARTITIONS where table_name = 'app_events'""",
    "a script of other tables": "begin select 1 from int_sessions_this_run; end",
}

BAD = {
    "select * from raw.app_events": ["app_events: every day is read, no bound on loaded_at"],
    "select * from `p.raw.app_events` as e where e.user_id = 'u'": [
        "app_events: every day is read, no bound on loaded_at"
    ],
    # The bound is in the wrong query: where the expression is read, and not where the table is.
    "with e as (select * from staging.stg_app__events) select * from e where loaded_at >= timestamp '2026-03-05'": [
        "stg_app__events: every day is read, no bound on loaded_at (in e)"
    ],
    "select 1 from x.int_sessions as a join x.int_sessions as b using (id) where a.started_on >= date '2026-03-05'": [
        "int_sessions: every day is read, no bound on started_on"
    ],
    # The column does not say which table it belongs to.
    "select 1 from x.int_sessions join small on true where started_on >= date '2026-03-05'": [
        "int_sessions: every day is read, no bound on started_on"
    ],
    "select 1 from x.int_sessions as s left join small on s.started_on >= date '2026-03-05'": [
        "int_sessions: every day is read, no bound on started_on"
    ],
    "select 1 from x.int_sessions as s full join small on s.started_on >= date '2026-03-05'": [
        "int_sessions: every day is read, no bound on started_on"
    ],
    "select max(loaded_at) from raw.app_events": [
        "app_events: every day is read to find its max(), no bound on loaded_at"
    ],
    "select * from small where t > (select min(started_on) from x.int_sessions where a)": [
        "int_sessions: every day is read to find its min(), no bound on started_on"
    ],
    "select * from raw.app_events where date(loaded_at) >= date '2026-03-05'": [
        "app_events: every day is read, loaded_at is hidden in a function"
    ],
    "select * from raw.app_events where cast(loaded_at as date) between date '2026-03-05' and date '2026-03-06'": [
        "app_events: every day is read, loaded_at is hidden in a function"
    ],
    "select * from raw.app_events where timestamp_add(loaded_at, interval 1 day) >= timestamp '2026-03-05'": [
        "app_events: every day is read, loaded_at is hidden in a function"
    ],
    "select * from raw.app_events where loaded_at >= (select max(t) from small)": [
        "app_events: every day is read, loaded_at is compared with a subquery"
    ],
    "select * from x.int_sessions where started_on in (select day from small)": [
        "int_sessions: every day is read, started_on is compared with a subquery"
    ],
    "select 1 from x.int_sessions as s join small on s.started_on >= small.day": [
        "int_sessions: every day is read, started_on is compared with a column"
    ],
    "select * from raw.app_events where loaded_at >= timestamp_sub(current_timestamp(), interval 1 day)": [
        "app_events: every day is read, loaded_at is not compared with a literal"
    ],
    "select * from raw.app_events where loaded_at >= timestamp '2026-03-05' or user_id = 'u'": [
        "app_events: every day is read, the bound on loaded_at stands under OR"
    ],
    "select * from raw.app_events where loaded_at < timestamp '2026-03-05'": [
        "app_events: every day is read, loaded_at has an upper bound alone"
    ],
    "select * from raw.app_events where not (loaded_at < timestamp '2026-03-05')": [
        "app_events: every day is read, no bound on loaded_at"
    ],
    "delete from x.int_sessions where user_id = 'u'": [
        "int_sessions: every day is deleted from, no bound on started_on"
    ],
    "update x.int_sessions set a = 1 where true": ["int_sessions: every day is updated, no bound on started_on"],
    "merge into x.int_sessions as d using t as s on s.id = d.id when matched then update set a = 1": [
        "int_sessions: every day is merged into, no bound on started_on"
    ],
    # A bound on the source prunes only the source.
    "merge into x.int_sessions as d using t as s on s.started_on >= date '2026-03-05' when matched then update set a = 1": [
        "int_sessions: every day is merged into, no bound on started_on"
    ],
    """merge into x.int_sessions as d using t as s on d.started_on >= date '2026-03-05' and s.id = d.id
        when not matched by source then delete""": ["int_sessions: every day is merged into, no bound on started_on"],
    "merge into small as d using x.int_sessions as s on d.id = s.id when not matched then insert (a) values (a)": [
        "int_sessions: every day is read, no bound on started_on"
    ],
    "create or replace table x.y as (select * from x.int_sessions)": [
        "int_sessions: every day is read, no bound on started_on"
    ],
    "create or replace view x.y as select * from x.int_sessions": [
        "int_sessions: every day is read, no bound on started_on"
    ],
    # dbt run --empty
    "select * from (select * from x.int_sessions where false limit 0) as s": [
        "int_sessions: every day is read, no bound on started_on (in s)"
    ],
    "declare newest date default (select max(started_on) from x.int_sessions); select 1": [
        "int_sessions: every day is read to find its max(), no bound on started_on"
    ],
    "select 1; begin select * from x.int_sessions; end": ["int_sessions: named in a statement that cannot be parsed"],
    "select from where int_sessions (": ["int_sessions: named in a statement that cannot be parsed"],
}


@pytest.mark.parametrize("sql", GOOD.values(), ids=GOOD)
def test_a_statement_that_says_from_which_day_on_it_reads_is_good(sql: str) -> None:
    assert violations(sql, BIG) == []


@pytest.mark.parametrize(("sql", "expected"), BAD.items())
def test_a_statement_that_reads_every_day_is_told_why(sql: str, expected: list[str]) -> None:
    assert violations(sql, BIG) == expected


NIGHT = "2026-03-10 00:00:00"
BACKFILL: dict[str, Any] = {"until_at": NIGHT, "history_until": NIGHT, "allow_full_refresh": True}
HOUR: dict[str, Any] = {
    "from_at": "2026-03-10 10:00:00",
    "until_at": "2026-03-10 11:00:00",
    "history_until": NIGHT,
    "profiles_from": "2026-03-10 10:00:00",
    "fold_from_epoch": 7,
    "fold_from_at": "2026-03-09 10:00:00",
}
ALL_BUT_UNIT_TESTS = ("build", "--exclude", "test_type:unit")


@pytest.fixture(scope="module")
def first_build(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(tmp_path_factory.mktemp("first"), *ALL_BUT_UNIT_TESTS, "--full-refresh", is_first=True, **BACKFILL)


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(tmp_path_factory.mktemp("hour"), *ALL_BUT_UNIT_TESTS, **HOUR)


def unbounded(recording: Recording) -> dict[str, list[str]]:
    """Return the violations in the statements of each model or test."""
    big = partitions(recording.manifest)
    found = [(statement.node, violations(statement.sql, big)) for statement in recording.statements]
    return {node: whys for node, whys in found if whys}


def test_every_statement_of_a_first_build_is_bounded(first_build: Recording) -> None:
    assert unbounded(first_build) == {}


def test_every_statement_of_an_hour_is_bounded(hour: Recording) -> None:
    assert unbounded(hour) == {}


def test_the_freshness_of_the_events_is_asked_of_some_days(tmp_path: Any) -> None:
    asked = record(tmp_path, "source", "freshness")

    assert [statement.node for statement in asked.statements] == ["app_events"]
    assert unbounded(asked) == {}


def test_an_hour_without_its_lower_bounds_would_read_every_day_in_these_models(hour: Recording) -> None:
    """Check the checker: with each lower bound turned into an upper bound, it reports the reads."""
    turned = [type(s)(s.node, re.sub(">=? (?=date|timestamp)", "< ", s.sql)) for s in hour.statements]
    models = {node["name"] for node in hour.manifest["nodes"].values() if node["resource_type"] == "model"}
    missed = unbounded(Recording(turned, hour.manifest))

    assert models & set(missed) >= {
        *("int_events__deduplicated", "int_users_touched", "int_outcomes", "int_sessions_this_run", "int_sessions"),
        *("int_exits_this_run", "fct_unfinished_exits", "fct_exit_features", "fct_exit_features_logged"),
        *("fct_scoring_candidates", "fct_training_examples", "crm_profiles", "crm_acknowledged"),
    }
    merges = [s for s in turned if "merge into" in s.sql and violations(s.sql, partitions(hour.manifest))]
    assert {s.node for s in merges} >= {
        *("int_events__deduplicated", "int_sessions", "fct_unfinished_exits", "fct_exit_features"),
        "fct_exit_features_logged",
    }


def test_a_table_that_grows_with_time_is_partitioned_by_day_and_refuses_a_query_without_a_bound(
    hour: Recording,
) -> None:
    incremental = {
        node["name"]: node["config"]
        for node in hour.manifest["nodes"].values()
        if node["config"]["materialized"] == "incremental"
    }
    by_day = {name: config for name, config in incremental.items() if config.get("partition_by")}

    # These have one row per user, or one per window. They grow with users, or are tiny.
    assert set(incremental) - set(by_day) <= {"int_outcomes", "crm_profiles", "crm_acknowledged", "fct_arrivals"}
    assert [name for name, config in by_day.items() if config["partition_by"]["granularity"] != "day"] == []
    assert [name for name, config in by_day.items() if config.get("require_partition_filter") is not True] == []
    assert [name for name, config in by_day.items() if config.get("cluster_by", [None])[0] != "user_id"] == []


def test_dbt_makes_them_so(first_build: Recording) -> None:
    by_day = {
        node["name"]: node["config"]["partition_by"]["field"]
        for node in first_build.manifest["nodes"].values()
        if node["config"].get("partition_by")
    }
    for name, column in by_day.items():
        made = next(s.sql for s in first_build.statements if s.node == name and "create or replace table" in s.sql)
        clauses = made.partition("as (")[0]
        wanted = {f"partition by {column}", "cluster by user_id", "require_partition_filter=True"}
        assert {clause for clause in wanted if clause in clauses} == wanted, name


def test_the_big_tables_and_the_views_that_rename_them_are_known(hour: Recording) -> None:
    assert (
        partitions(hour.manifest).items()
        >= {
            "winback_raw.app_events": "loaded_at",
            "winback_ops.decisions": "decided_at",
            "winback_ops.deliveries": "attempted_at",
            "winback_staging.stg_app__events": "loaded_at",
            "winback_staging.stg_ops__decisions": "decided_at",
            "winback_staging.stg_ops__deliveries": "attempted_at",
            "winback_intermediate.int_events__deduplicated": "occurred_on",
            "winback_intermediate.int_sessions": "started_on",
            "winback_marts.fct_unfinished_exits": "exited_on",
            "winback_marts.fct_exit_features": "exited_on",
            "winback_marts.fct_exit_features_logged": "exited_on",
        }.items()
    )
