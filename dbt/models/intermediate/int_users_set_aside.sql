-- If the rows of one user break a rule, only that user is set aside, with the name of the rule; the run goes on.
-- If many users break a rule, the run stops: tests/users_set_aside_are_few.sql.
with touched as (
    select * from {{ ref('int_users_touched') }}
),

sessions as (
    select * from {{ ref('int_sessions') }}
    where
        started_on >= {{ first_day_in_reach() }}
        and not is_dissolved
),

exits as (
    select * from {{ ref('fct_unfinished_exits') }}
    where
        exited_on >= {{ first_day_in_reach() }}
        and not is_dissolved
),

logged as (
    select
        exit_id,
        user_id,
        exited_at,
        last_event_at
    from {{ ref('fct_exit_features_logged') }}
    where exited_on >= {{ first_day_in_reach() }}
),

-- Exits whose session is missing or was joined to another. Exits of the first days in reach are not checked, because
-- their sessions may have begun before it.
without_session as (
    select exits.user_id
    from exits
    left join sessions on exits.session_id = sessions.session_id
    where
        exits.exited_on >= {{ first_day_in_reach(days_of_a_session()) }}
        and sessions.session_id is null
),

-- Two sessions of a user are at least the gap apart, unless the first was cut at the maximum. This run's users only.
consecutive as (
    select
        sessions.user_id,
        sessions.started_at,
        lag(sessions.ended_at) over (partition by sessions.user_id order by sessions.started_at) as previous_ended_at,
        lag(coalesce(sessions.is_cut, false)) over (partition by sessions.user_id order by sessions.started_at)
            as was_cut
    from sessions
    inner join touched on sessions.user_id = touched.user_id
),

overlapping as (
    select user_id from consecutive
    where
        {{ microseconds_between('previous_ended_at', 'started_at') }}
        < case when was_cut then 1 else {{ gap_microseconds() }} end
),

without_features as (
    select exits.user_id
    from exits
    left join logged on exits.exit_id = logged.exit_id
    where logged.exit_id is null
),

-- Features that contain an event after the exit: later events must not leak in.
from_later as (
    select user_id from logged
    where last_event_at > exited_at
),

-- Exits of users who had already finished, given up or been closed. Such an exit is not unfinished, even if the outcome
-- arrived later.
after_outcome as (
    select exits.user_id
    from exits
    inner join {{ ref('int_outcomes') }} as outcomes on exits.user_id = outcomes.user_id
    where outcomes.first_outcome_at <= exits.closed_at
),

broken as (
    {% for rule in ['without_session', 'overlapping', 'without_features', 'from_later', 'after_outcome'] %}
        select
            user_id,
            '{{ rule }}' as broken_rule
        from {{ rule }}
        {% if not loop.last %} union all {% endif %}
    {% endfor %}
)

select distinct
    user_id,
    broken_rule
from broken
