{{ config(materialized='view') }}

with rejected as (
    select * from {{ ref('stg_ops__deliveries') }}
    where
        -- Partitions of 400 days before this was built, which a night does.
        attempted_at >= {{ moment(var('from_at'), plus_days=-400) }}
        and outcome = 'rejected'
)

select
    attempted_on,
    coalesce(error_code, 'unknown') as error_code,
    -- One of them: sentences of one code differ in what they quote, which is left out anyway.
    min(error_reason) as example_reason,
    min(http_status) as http_status,
    count(*) as count_rejected,
    count(distinct user_id) as count_users,
    count(distinct run_id) as count_runs,
    min(attempted_at) as first_at,
    max(attempted_at) as last_at
from rejected
group by attempted_on, coalesce(error_code, 'unknown')
