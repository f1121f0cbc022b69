{{ config(materialized='view') }}

select
    run_id,
    epoch,
    started_at,
    ended_at,
    window_until,
    count_delivered,
    count_unchanged,
    count_rejected,
    count_suppressed,
    count_deferred,
    count_audience,
    stopped_because
from {{ ref('stg_ops__reports') }}
