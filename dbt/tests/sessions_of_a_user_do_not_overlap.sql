-- Between two sessions of a user lies at least the gap, unless the first was cut at the maximum. This run's users only.
with sessions as (
    select
        sessions.user_id,
        sessions.session_id,
        sessions.started_at,
        lag(sessions.ended_at) over (partition by sessions.user_id order by sessions.started_at) as previous_ended_at,
        lag(coalesce(sessions.is_cut, false)) over (partition by sessions.user_id order by sessions.started_at)
            as was_cut
    from {{ ref('int_sessions') }} as sessions
    inner join {{ ref('int_users_touched') }} as touched on sessions.user_id = touched.user_id
    where
        sessions.started_on >= {{ first_day_in_reach() }}
        and not sessions.is_dissolved
)

select * from sessions
where
    {{ microseconds_between('previous_ended_at', 'started_at') }}
    < case when was_cut then 1 else {{ gap_microseconds() }} end
