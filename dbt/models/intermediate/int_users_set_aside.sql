-- A rule that the rows of one user break must not stop all others: the user is set aside, and the rule is named.
-- When it is many users something is wrong with all rows: tests/users_set_aside_are_few.sql.
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

-- The session of an exit is there and has not been joined to another. Exits from the second day in reach on: their
-- sessions may have begun the day before.
without_session as (
    select exits.user_id
    from exits
    left join sessions on exits.session_id = sessions.session_id
    where
        exits.exited_on >= {{ first_day_in_reach(1) }}
        and sessions.session_id is null
),

-- Between two sessions of a user lies at least the inactivity gap; with less they are one. This run's users only.
consecutive as (
    select
        sessions.user_id,
        sessions.started_at,
        lag(sessions.ended_at) over (partition by sessions.user_id order by sessions.started_at) as previous_ended_at
    from sessions
    inner join touched on sessions.user_id = touched.user_id
),

overlapping as (
    select user_id from consecutive
    where {{ microseconds_between('previous_ended_at', 'started_at') }} < {{ gap_microseconds() }}
),

without_features as (
    select exits.user_id
    from exits
    left join logged on exits.exit_id = logged.exit_id
    where logged.exit_id is null
),

-- The features of an exit end with its last event: nothing later leaks in.
from_later as (
    select user_id from logged
    where last_event_at > exited_at
),

-- Whoever had finished, given up or been closed by then did not leave unfinished; also when that was learnt later.
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
