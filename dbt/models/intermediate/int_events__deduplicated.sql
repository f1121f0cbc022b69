{{ config(
    materialized='incremental',
    incremental_strategy='merge',
    unique_key=['user_id', 'event_id', 'event_name', 'occurred_on'],
    partition_by=by_day('occurred_on'),
    require_partition_filter=filter_required(),
    cluster_by=by_user(),
    incremental_predicates=["DBT_INTERNAL_DEST.occurred_on >= " ~ first_day_in_reach()],
    on_schema_change='append_new_columns',
) }}

-- An event_id is unique only per user, name and day, because apps count per device and restart their counters. The day
-- bounds how far back a copy must be searched.
with arrived as (
    select
        event_id,
        user_id,
        coalesce(event_name, '') as event_name,
        occurred_at,
        occurred_on,
        loaded_at,
        lower(device_type) as device_type,
        step,
        fields_filled_ratio,
        {{ outcome_of('event_name') }} as outcome
    from {{ ref('stg_app__events') }}
    where
        loaded_at >= {{ moment(var('from_at')) }}
        and loaded_at < {{ moment(var('until_at')) }}
),

in_time as (
    select * from arrived
    where
        not {{ is_too_late('occurred_at', 'loaded_at') }}
        and {{ 'occurred_at >= ' ~ earliest_event() if is_incremental() else 'true' }}
),

first_copies as (
    select * from in_time
    qualify
        row_number() over (
            partition by user_id, event_id, event_name, occurred_on
            order by loaded_at, occurred_at, step, device_type, fields_filled_ratio
        ) = 1
)

select * from first_copies
{% if is_incremental() %}
    -- Drop copies of events that an earlier window processed. Rows of this window are written again, because a run that
    -- crashed before its commit leaves them behind.
    where
        not exists (
            select 1 from {{ this }} as seen
            where
                seen.user_id = first_copies.user_id
                and seen.event_id = first_copies.event_id
                and seen.event_name = first_copies.event_name
                and seen.occurred_on = first_copies.occurred_on
                and seen.occurred_on >= {{ first_day_in_reach() }}
                and seen.loaded_at < {{ moment(var('from_at')) }}
        )
{% endif %}
{{ in_order_of('occurred_on') }}
