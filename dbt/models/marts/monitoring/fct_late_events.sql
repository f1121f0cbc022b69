{{ config(
    materialized='incremental',
    incremental_strategy='merge',
    unique_key='arrival_id',
    partition_by=by_day('loaded_on'),
    require_partition_filter=filter_required(),
    cluster_by=by_user(),
    incremental_predicates=["DBT_INTERNAL_DEST.loaded_on >= " ~ day(var('from_at'))],
    on_schema_change='append_new_columns',
) }}

with too_late as (
    select * from {{ ref('stg_app__events') }}
    where
        loaded_at >= {{ moment(var('from_at')) }}
        and loaded_at < {{ moment(var('until_at')) }}
        and {{ is_too_late('occurred_at', 'loaded_at') }}
)

select
    {{ arrival_id() }} as arrival_id,
    event_id,
    user_id,
    event_name,
    occurred_at,
    loaded_at,
    cast(loaded_at as date) as loaded_on,
    {{ seconds(microseconds_between('occurred_at', 'loaded_at')) }} / 86400 as lateness_days
from too_late
-- Ingestion may deliver a row twice at the same time.
qualify row_number() over (partition by user_id, event_id, event_name, occurred_at, loaded_at order by user_id) = 1
