{{ config(
    materialized='incremental',
    incremental_strategy='merge',
    unique_key='window_from',
    on_schema_change='append_new_columns',
) }}

{#- A window begins where the last committed one ended. If it is built again, even with another end, it begins at the
    same time and replaces its row. With one row per run, partitions are unnecessary. A run that also rebuilds the work of
    a failed run counts its own window only. -#}
{% set counted_from = var('arrivals_from', var('from_at')) %}

-- Every copy counts, including copies of an event that arrived earlier.
with arrived as (
    select
        user_id,
        event_id,
        coalesce(event_name, '') as event_name,
        occurred_at,
        device_type,
        step,
        fields_filled_ratio,
        {{ microseconds_between('occurred_at', 'loaded_at') }} as lateness_microseconds,
        {{ is_too_late('occurred_at', 'loaded_at') }} as is_too_late
    from {{ ref('stg_app__events') }}
    where
        loaded_at >= {{ moment(counted_from) }}
        and loaded_at < {{ moment(var('until_at')) }}
),

keys as (
    select
        user_id,
        event_id,
        event_name,
        cast(occurred_at as date) as occurred_on,
        count(*) as count_copies
    from arrived
    group by user_id, event_id, event_name, cast(occurred_at as date)
),

contents as (
    select distinct
        user_id,
        event_id,
        event_name,
        occurred_at,
        device_type,
        step,
        fields_filled_ratio
    from arrived
),

shared as (
    select sum(count_copies) as count_copies
    from keys
    group by event_id
    having count(*) > 1
),

-- Users with an event in this window whose session exceeds the maximum length.
set_aside as (
    select count(distinct sessions.user_id) as count_users
    from {{ ref('int_sessions') }} as sessions
    inner join {{ ref('int_users_touched') }} as touched on sessions.user_id = touched.user_id
    where
        sessions.started_on >= {{ first_day_in_reach() }}
        and sessions.started_at >= {{ earliest_change('touched.first_new_at') }}
        and sessions.is_too_long
        and not sessions.is_dissolved
),

counted as (
    select
        count(*) as count_events,
        count(case when lateness_microseconds >= {{ gap_microseconds() }} then 1 end) as count_late,
        count(case when is_too_late then 1 end) as count_too_late,
        max(lateness_microseconds) as longest_microseconds
    from arrived
),

distinct_keys as (
    select count(*) as count_keys from keys
),

distinct_contents as (
    select count(*) as count_contents from contents
),

sharing as (
    select coalesce(sum(count_copies), 0) as count_sharing from shared
),

-- Earlier exits keep their scores, but a late withdrawal of consent still removes the score and the voucher.
late_profiles as (
    select
        {{ to_bigint('count(*)') }} as count_profiles_late,
        {{ to_bigint('count(case when erased_at is not null or not has_marketing_consent then 1 end)') }}
            as count_withdrawals_late
    from {{ ref('stg_app__users') }}
    where
        loaded_at >= {{ moment(counted_from) }}
        and loaded_at < {{ moment(var('until_at')) }}
        and {{ is_too_late('updated_at', 'loaded_at') }}
),

-- The rows that stg_app__events drops.
odd_events as (
    select {{ to_bigint('count(*)') }} as count_events_set_aside
    from {{ source('app', 'app_events') }}
    where
        loaded_at >= {{ moment(counted_from) }}
        and loaded_at < {{ moment(var('until_at')) }}
        and ({{ event_is_odd() }})
)

select
    {{ moment(counted_from) }} as window_from,
    {{ moment(var('until_at')) }} as window_until,
    {{ to_bigint('counted.count_events') }} as count_events,
    {{ to_bigint('counted.count_events - distinct_keys.count_keys') }} as count_events_repeated,
    {{ to_bigint('counted.count_late') }} as count_events_late,
    {{ to_bigint('counted.count_too_late') }} as count_events_too_late,
    {{ seconds('counted.longest_microseconds') }} as longest_lateness_seconds,
    {{ to_bigint('sharing.count_sharing') }} as count_events_sharing_id,
    {{ to_bigint('distinct_contents.count_contents - distinct_keys.count_keys') }} as count_events_differing,
    {{ to_bigint('set_aside.count_users') }} as count_users_session_too_long,
    late_profiles.count_profiles_late,
    late_profiles.count_withdrawals_late,
    odd_events.count_events_set_aside
from counted
cross join distinct_keys
cross join distinct_contents
cross join sharing
cross join set_aside
cross join late_profiles
cross join odd_events
