select
    user_id,
    min(occurred_at) as first_new_at
from {{ ref('int_events__deduplicated') }}
where
    occurred_on >= {{ first_day_in_reach() }}
    and occurred_at >= {{ earliest_event() }}
    and loaded_at >= {{ moment(var('from_at')) }}
    and loaded_at < {{ moment(var('until_at')) }}
group by user_id
