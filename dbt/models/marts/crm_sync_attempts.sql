{{ config(materialized='view') }}

select
    deliveries.attempted_at,
    deliveries.attempted_on,
    deliveries.run_id,
    deliveries.epoch,
    deliveries.user_id,
    deliveries.outcome,
    deliveries.fields_sent,
    deliveries.http_status,
    deliveries.error_code,
    deliveries.error_reason,
    deliveries.desired_hash
from {{ ref('stg_ops__deliveries') }} as deliveries
where
    -- Partitions of 400 days before this was built, which a night does.
    deliveries.attempted_at >= {{ moment(var('from_at'), plus_days=-400) }}
    and deliveries.outcome in ('delivered', 'rejected')
