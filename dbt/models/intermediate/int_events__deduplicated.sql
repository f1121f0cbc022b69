{{ config(
    materialized='incremental',
    incremental_strategy='merge',
    unique_key='event_id',
    partition_by=by_day('occurred_on'),
    require_partition_filter=filter_required(),
    cluster_by=by_user(),
    incremental_predicates=["DBT_INTERNAL_DEST.occurred_on >= " ~ first_day_in_reach()],
    on_schema_change='append_new_columns',
) }}

with arrived as (
    select
        event_id,
        user_id,
        event_name,
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
    where not {{ is_too_late('occurred_at', 'loaded_at') }}
),

first_copies as (
    select * from in_time
    qualify
        row_number() over (
            partition by event_id
            order by loaded_at, occurred_at, user_id, event_name, step, device_type, fields_filled_ratio
        ) = 1
)

select * from first_copies
{% if is_incremental() %}
    -- A copy of an event that an earlier window took in changes nothing. Rows of this window are written again: a run that
    -- crashed before its commit leaves them behind.
    where
        not exists (
            select 1 from {{ this }} as seen
            where
                seen.event_id = first_copies.event_id
                and seen.occurred_on >= {{ first_day_in_reach() }}
                and seen.loaded_at < {{ moment(var('from_at')) }}
        )
{% endif %}
{{ in_order_of('occurred_on') }}
