select
    event_id,
    user_id,
    event_name,
    occurred_at,
    cast(occurred_at as date) as occurred_on,
    loaded_at,
    device_type,
    step,
    fields_filled_ratio
from {{ source('app', 'app_events') }}
{{ where_in_scope('user_id', 'loaded_at') }}
    -- Without one of these a row says nothing of anybody. fct_arrivals counts them.
    and not ({{ event_is_odd() }})
