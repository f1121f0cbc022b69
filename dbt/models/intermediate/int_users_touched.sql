-- All copies count, not only the first: a copy that became visible late may replace another copy of the same event, and
-- then the sessions at both times change.
select
    user_id,
    min(occurred_at) as first_new_at
from {{ ref('stg_app__events') }}
where
    loaded_at >= {{ moment(var('from_at')) }}
    and loaded_at < {{ moment(var('until_at')) }}
    and occurred_at >= {{ earliest_event() }}
    and not {{ is_too_late('occurred_at', 'loaded_at') }}
group by user_id
