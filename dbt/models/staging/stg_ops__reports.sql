select
    run_id,
    epoch,
    window_until,
    started_at,
    ended_at,
    count_events,
    count_events_late,
    count_events_too_late,
    count_delivered,
    count_unchanged,
    count_rejected,
    count_suppressed,
    count_deferred,
    count_audience,
    stopped_because
from {{ source('ops', 'reports') }}
