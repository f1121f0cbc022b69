-- The features of an exit end with its last event: nothing later leaks in.
select
    exit_id,
    exited_at,
    last_event_at
from {{ ref('fct_exit_features') }}
where
    exited_on >= {{ first_day_in_reach() }}
    and last_event_at > exited_at
