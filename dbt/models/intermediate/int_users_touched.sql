-- Of all copies: one that became visible late may take the place of another with its id, and then both times changed.
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
