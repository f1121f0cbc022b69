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
{{ where_in_scope('user_id', 'loaded_at', odd=event_is_odd()) }}
