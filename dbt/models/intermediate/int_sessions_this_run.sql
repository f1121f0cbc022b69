with touched as (
    select * from {{ ref('int_users_touched') }}
),

events as (
    select
        events.*,
        {{ step_index('events.step') }} as step_index
    from {{ ref('int_events__deduplicated') }} as events
    inner join touched on events.user_id = touched.user_id
    where
        events.occurred_on >= {{ first_day_in_reach() }}
        and events.loaded_at < {{ moment(var('until_at')) }}
),

gaps as (
    select
        *,
        {{ microseconds('occurred_at') }} as occurred_microseconds,
        {{ microseconds('occurred_at') }}
        - lag({{ microseconds('occurred_at') }}) over (partition by user_id order by occurred_at, event_id, event_name)
            as gap_microseconds
    from events
),

-- A streak is a sequence of events with gaps below the limit. A gap of exactly the limit ends it.
streaks as (
    select
        *,
        sum(case when gap_microseconds >= {{ gap_microseconds() }} then 1 else 0 end)
            over (
                partition by user_id order by occurred_at, event_id, event_name
                rows between unbounded preceding and current row
            )
            as streak_number
    from gaps
),

measured as (
    select
        *,
        min(occurred_microseconds) over (partition by user_id, streak_number) as streak_from,
        max(occurred_microseconds) over (partition by user_id, streak_number) as streak_until
    from streaks
),

-- A streak up to the maximum length is one session. A longer streak is cut at fixed cells of UTC, one session per cell.
-- So every run cuts it at the same times, even if only a part of it is in reach.
cut as (
    select
        *,
        streak_until - streak_from > {{ max_session_microseconds() }} as is_too_long,
        case
            when streak_until - streak_from > {{ max_session_microseconds() }}
                then greatest({{ cell_start('occurred_microseconds') }}, streak_from)
            else streak_from
        end as session_from
    from measured
),

ranked as (
    select
        *,
        row_number() over (
            partition by user_id, session_from order by occurred_at desc, event_id desc, event_name desc
        ) as recency,
        row_number() over (
            partition by user_id, session_from
            order by case when device_type is null then 1 else 0 end, occurred_at desc, event_id desc, event_name desc
        ) as device_recency,
        row_number() over (
            partition by user_id, session_from
            order by case when step_index is null then 1 else 0 end, occurred_at desc, event_id desc, event_name desc
        ) as step_recency,
        case
            when
                gap_microseconds < {{ gap_microseconds() }}
                and occurred_microseconds - gap_microseconds >= session_from
                then gap_microseconds
        end as pause_microseconds
    from cut
),

sessions as (
    select
        user_id,
        min(occurred_at) as started_at,
        max(occurred_at) as ended_at,
        {{ to_bigint('count(*)') }} as count_events,
        {% for kind in kinds() %}
            {{ to_bigint("sum(case when " ~ is_kind('event_name', kind) ~ " then 1 else 0 end)") }} as count_{{ kind }},
        {% endfor %}
        {{ to_bigint("count(distinct event_name)") }} as count_event_names,
        {{ to_bigint("count(distinct step)") }} as count_steps,
        {{ to_bigint("count(distinct device_type)") }} as count_devices,
        {{ to_bigint("sum(case when pause_microseconds >= " ~ var('pause_seconds') * 1000000 ~ " then 1 else 0 end)") }}
            as count_pauses,
        {{ to_bigint("coalesce(max(pause_microseconds), 0)") }} as longest_pause_microseconds,
        max(fields_filled_ratio) as fields_filled_ratio,
        {{ to_bigint("max(step_index)") }} as furthest_step_index,
        {{ to_bigint("max(case when step_recency = 1 then step_index end)") }} as last_step_index,
        max(case when device_recency = 1 then device_type end) as device_type,
        max(case when recency = 1 then event_name end) as last_event_name,
        -- Tests use it to prove that no later event leaks in.
        max(loaded_at) as last_loaded_at,
        is_too_long,
        max(occurred_microseconds) < streak_until as is_cut
    from ranked
    group by user_id, session_from, is_too_long, streak_until
)

select
    {{ moment_id('sessions.user_id', 'sessions.started_at') }} as session_id,
    sessions.*,
    cast(sessions.started_at as date) as started_on,
    {{ microseconds_between('sessions.started_at', 'sessions.ended_at') }} as duration_microseconds
from sessions
inner join touched on sessions.user_id = touched.user_id
-- Sessions that began earlier cannot have changed. The oldest may even be incomplete, because the reach cuts it.
where sessions.started_at >= {{ earliest_change('touched.first_new_at') }}
