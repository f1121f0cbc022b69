with sessions as (
    select
        session_id,
        user_id,
        ended_at as exited_at,
        {{ add_minutes('ended_at', var('session_gap_minutes')) }} as closed_at,
        coalesce(is_too_long, false) as is_session_too_long
    from {{ ref('int_sessions') }}
    where
        started_on >= {{ first_day_in_reach() }}
        and not is_dissolved
        -- A session cut at the maximum is not an exit: the user went on.
        and not coalesce(is_cut, false)
),

-- An exit is complete when its gap has passed, even if nothing new arrived for its user.
ripened as (
    select * from sessions
    where
        closed_at > {{ moment(var('from_at')) }}
        and closed_at <= {{ moment(var('until_at')) }}
),

-- Late events may change sessions that had closed before, or be an outcome at the exact time of closing.
changed as (
    select sessions.*
    from sessions
    inner join {{ ref('int_users_touched') }} as touched on sessions.user_id = touched.user_id
    where
        sessions.closed_at >= touched.first_new_at
        and sessions.closed_at <= {{ moment(var('until_at')) }}
),

closed as (
    select * from ripened
    union distinct
    select * from changed
)

select
    {{ moment_id('closed.user_id', 'closed.exited_at') }} as exit_id,
    closed.user_id,
    closed.session_id,
    closed.exited_at,
    cast(closed.exited_at as date) as exited_on,
    closed.closed_at,
    closed.is_session_too_long
from closed
left join {{ ref('int_outcomes') }} as outcomes on closed.user_id = outcomes.user_id
where outcomes.first_outcome_at is null or outcomes.first_outcome_at > closed.closed_at
