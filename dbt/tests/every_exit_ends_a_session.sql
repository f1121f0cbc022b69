-- The session of an exit is there and has not been joined to another. (dbt's relationships test would read all days.)
-- Exits from so many days later on: their sessions may have begun a maximum before.
with sessions as (
    select session_id from {{ ref('int_sessions') }}
    where
        started_on >= {{ first_day_in_reach() }}
        and not is_dissolved
)

select
    exits.exit_id,
    exits.session_id
from {{ ref('fct_unfinished_exits') }} as exits
left join sessions on exits.session_id = sessions.session_id
where
    exits.exited_on >= {{ first_day_in_reach(days_of_a_session()) }}
    and not exits.is_dissolved
    and sessions.session_id is null
