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
        {{ microseconds('occurred_at') }}
        - lag({{ microseconds('occurred_at') }}) over (partition by user_id order by occurred_at, event_id)
            as gap_microseconds
    from events
),

numbered as (
    select
        *,
        -- A gap of exactly the limit ends a session: sessions hold gaps below it.
        sum(case when gap_microseconds >= {{ gap_microseconds() }} then 1 else 0 end)
            over (partition by user_id order by occurred_at, event_id rows between unbounded preceding and current row)
            as session_number
    from gaps
),

ranked as (
    select
        *,
        row_number() over (partition by user_id, session_number order by occurred_at desc, event_id desc)
            as recency,
        row_number() over (
            partition by user_id, session_number
            order by case when device_type is null then 1 else 0 end, occurred_at desc, event_id desc
        ) as device_recency,
        row_number() over (
            partition by user_id, session_number
            order by case when step_index is null then 1 else 0 end, occurred_at desc, event_id desc
        ) as step_recency,
        case when gap_microseconds < {{ gap_microseconds() }} then gap_microseconds end as pause_microseconds
    from numbered
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
        -- Carried along so that tests can prove that nothing later leaks in.
        max(loaded_at) as last_loaded_at
    from ranked
    group by user_id, session_number
)

select
    {{ moment_id('sessions.user_id', 'sessions.started_at') }} as session_id,
    sessions.*,
    cast(sessions.started_at as date) as started_on,
    {{ microseconds_between('sessions.started_at', 'sessions.ended_at') }} as duration_microseconds
from sessions
inner join touched on sessions.user_id = touched.user_id
-- Sessions that ended a gap or more before the first new event cannot have changed; the reach may even cut the oldest.
where {{ microseconds_between('sessions.ended_at', 'touched.first_new_at') }} < {{ gap_microseconds() }}
