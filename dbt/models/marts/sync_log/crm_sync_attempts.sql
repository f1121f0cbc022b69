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
    -- The last 400 days before the nightly build of this view, so that BigQuery skips older partitions.
    deliveries.attempted_at >= {{ moment(var('from_at'), plus_days=-400) }}
    and deliveries.outcome in ('delivered', 'rejected')
