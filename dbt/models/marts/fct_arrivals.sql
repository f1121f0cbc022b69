{{ config(
    materialized='incremental',
    incremental_strategy='merge',
    unique_key='window_from',
    on_schema_change='append_new_columns',
) }}

{#- A window begins where the last committed one ended: built again, even up to another end, it begins at the same time
    and replaces its row. A row an hour needs no partitions. A run that builds once more what an earlier one left half done
    counts its own window all the same. -#}
{% set counted_from = var('arrivals_from', var('from_at')) %}

-- Every copy counts, also of an event that arrived before.
with arrived as (
    select
        event_id,
        {{ microseconds_between('occurred_at', 'loaded_at') }} as lateness_microseconds,
        {{ is_too_late('occurred_at', 'loaded_at') }} as is_too_late
    from {{ ref('stg_app__events') }}
    where
        loaded_at >= {{ moment(counted_from) }}
        and loaded_at < {{ moment(var('until_at')) }}
),

event_counts as (
    select
        {{ to_bigint('count(*)') }} as count_events,
        {{ to_bigint('count(*) - count(distinct event_id)') }} as count_events_repeated,
        {{ to_bigint('count(case when lateness_microseconds >= ' ~ gap_microseconds() ~ ' then 1 end)') }}
            as count_events_late,
        {{ to_bigint('count(case when is_too_late then 1 end)') }} as count_events_too_late,
        {{ seconds('max(lateness_microseconds)') }} as longest_lateness_seconds
    from arrived
),

-- The exits of before stay as they were scored, and what a withdrawal takes away is taken away.
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

-- What stg_app__events leaves out.
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
    event_counts.count_events,
    event_counts.count_events_repeated,
    event_counts.count_events_late,
    event_counts.count_events_too_late,
    event_counts.longest_lateness_seconds,
    late_profiles.count_profiles_late,
    late_profiles.count_withdrawals_late,
    odd_events.count_events_set_aside
from event_counts
cross join late_profiles
cross join odd_events
