{{ config(materialized='view') }}

with rejected as (
    select * from {{ ref('stg_ops__deliveries') }}
    where
        -- The last 400 days before the nightly build of this view, so that BigQuery skips older partitions.
        attempted_at >= {{ moment(var('from_at'), plus_days=-400) }}
        and outcome = 'rejected'
)

select
    attempted_on,
    coalesce(error_code, 'unknown') as error_code,
    -- One example is enough: messages with the same code differ only in the values they quote, which are removed.
    min(error_reason) as example_reason,
    min(http_status) as http_status,
    count(*) as count_rejected,
    count(distinct user_id) as count_users,
    count(distinct run_id) as count_runs,
    min(attempted_at) as first_at,
    max(attempted_at) as last_at
from rejected
group by attempted_on, coalesce(error_code, 'unknown')
