{{ config(
    materialized='incremental',
    incremental_strategy='merge',
    unique_key='exit_id',
    partition_by=by_day('exited_on'),
    require_partition_filter=filter_required(),
    cluster_by=by_user(),
    incremental_predicates=["DBT_INTERNAL_DEST.exited_on >= " ~ first_day_in_reach()],
    on_schema_change='append_new_columns',
) }}

with exits as (
    select * from {{ ref('int_exits_this_run') }}
),

-- Every session that had ended by the exit, including the one that ended in it. Nothing later.
history as (
    select
        exits.exit_id,
        exits.exited_at,
        sessions.*,
        sessions.session_id = exits.session_id as is_last,
        lag(sessions.device_type) over (partition by exits.exit_id order by sessions.started_at)
            as previous_device_type,
        lag(sessions.ended_at) over (partition by exits.exit_id order by sessions.started_at)
            as previous_ended_at
    from exits
    inner join {{ ref('int_sessions') }} as sessions
        on
            exits.user_id = sessions.user_id
            and exits.exited_at >= sessions.ended_at
            and sessions.started_at > {{ add_days('exits.exited_at', -var('feature_history_days')) }}
    where
        sessions.started_on >= {{ first_day_in_reach(-var('feature_history_days')) }}
        and not sessions.is_dissolved
),

totals as (
    select
        exit_id,
        sum(duration_microseconds) as duration_microseconds,
        count(*) as count_sessions,
        count(distinct started_on) as count_active_days,
        sum(case when {{ microseconds_between('started_at', 'exited_at') }} < 7 * 86400000000 then 1 else 0 end)
            as count_sessions_last_7_days,
        sum(count_events) as count_events,
        {% for kind in kinds() %}
            sum(count_{{ kind }}) as count_{{ kind }},
        {% endfor %}
        sum(count_pauses) as count_pauses,
        count(distinct device_type) as count_devices,
        sum(case when device_type != previous_device_type then 1 else 0 end) as count_device_switches,
        max(fields_filled_ratio) as fields_filled_ratio,
        max(case when not is_last then fields_filled_ratio end) as earlier_fields_filled_ratio,
        max(furthest_step_index) as furthest_step_index,
        min(started_at) as first_started_at,
        max(case when is_last then previous_ended_at end) as previous_ended_at,
        max(last_loaded_at) as last_loaded_at,
        max(ended_at) as last_event_at
    from history
    group by exit_id
),

last_sessions as (
    select * from history
    where is_last
),

-- A share outside 0 to 1, such as 70, is invalid, and values derived from it are null. The share itself passes
-- unchanged: the feature contract treats it as missing, and stops the run if many rows have one.
shares as (
    select
        exit_id,
        {{ within('fields_filled_ratio', 0, 1) }} as filled_ratio,
        coalesce({{ within('earlier_fields_filled_ratio', 0, 1) }}, 0) as earlier_filled_ratio
    from totals
),

gains as (
    select
        exit_id,
        filled_ratio,
        filled_ratio - earlier_filled_ratio as fields_filled_gain_ratio
    from shares
),

-- The profile as of the exit: the latest version written before the exit that had arrived when the exit closed. The
-- model did not see versions that arrived later, so no build may use them. All history that the backfill read counts
-- as arrived.
profiles as (
    select
        exits.exit_id,
        users.created_at,
        users.age,
        users.income,
        users.employment_type,
        users.marital_status,
        users.has_previous_year_filing,
        users.referral_source
    from exits
    inner join {{ ref('stg_app__users') }} as users
        on exits.user_id = users.user_id and exits.exited_at >= users.updated_at
    where users.loaded_at <= exits.closed_at or users.loaded_at < {{ moment(var('history_until')) }}
    qualify row_number() over (
        partition by exits.exit_id
        order by
            users.updated_at desc,
            {{ newest_version_first('users') }},
            -- Tie-breakers, so that every build selects the same version.
            coalesce(cast(users.created_at as string), ''),
            coalesce(cast(users.age as string), ''),
            coalesce(cast(users.income as string), ''),
            coalesce(cast(users.employment_type as string), ''),
            coalesce(cast(users.marital_status as string), ''),
            coalesce(cast(users.has_previous_year_filing as string), ''),
            coalesce(cast(users.referral_source as string), '')
    ) = 1
)

select
    exits.exit_id,
    exits.user_id,
    exits.exited_at,
    exits.exited_on,

    -- effort
    {{ seconds('totals.duration_microseconds') }} as time_on_platform_seconds,
    {{ to_bigint('totals.count_sessions') }} as count_sessions,
    {{ to_bigint('totals.count_sessions_last_7_days') }} as count_sessions_last_7_days,
    {{ to_bigint('totals.count_active_days') }} as count_active_days,
    {{ to_bigint('totals.count_events') }} as count_events,
    {% for kind in kinds() %}
        {{ to_bigint('totals.count_' ~ kind) }} as count_{{ kind }},
    {% endfor %}
    {{ to_bigint('totals.count_pauses') }} as count_pauses,

    -- progress
    totals.fields_filled_ratio,
    gains.fields_filled_gain_ratio,
    {{ per_minute('gains.fields_filled_gain_ratio', 'last_sessions.duration_microseconds', -60, 60) }}
        as fields_filled_gain_per_minute,
    {{ clipped('gains.filled_ratio / nullif(totals.count_input, 0)', 0, 1) }} as fields_filled_ratio_per_input,
    totals.furthest_step_index,
    last_sessions.last_step_index,

    -- the last session
    {{ seconds('last_sessions.duration_microseconds') }} as last_session_seconds,
    last_sessions.count_events as last_session_count_events,
    {{ per_minute('last_sessions.count_events', 'last_sessions.duration_microseconds', 0, 10000000) }}
        as last_session_events_per_minute,
    last_sessions.count_input as last_session_count_input,
    last_sessions.count_help as last_session_count_help,
    last_sessions.count_error as last_session_count_error,
    last_sessions.count_event_names as last_session_count_event_names,
    last_sessions.count_steps as last_session_count_steps,
    last_sessions.count_pauses as last_session_count_pauses,
    {{ seconds('last_sessions.longest_pause_microseconds') }} as last_session_longest_pause_seconds,
    last_sessions.last_event_name,

    -- device
    last_sessions.device_type,
    {{ to_bigint('totals.count_devices') }} as count_devices,
    {{ to_bigint('totals.count_device_switches') }} as count_device_switches,

    -- time
    {{ to_bigint('extract(hour from exits.exited_at)') }} as exit_hour,
    -- 0 is Monday. (extract(dayofweek) counts from 0 on DuckDB and from 1 on BigQuery; 1970-01-05 was a Monday.)
    {{ to_bigint("floor(mod(" ~ microseconds_between("timestamp '1970-01-05 00:00:00'", "exits.exited_at")
        ~ ", 604800000000) / 86400000000.0)") }} as exit_weekday,
    {{ seconds(microseconds_between('totals.first_started_at', 'exits.exited_at')) }} as seconds_since_first_session,
    {{ seconds(microseconds_between('totals.previous_ended_at', 'last_sessions.started_at')) }}
        as seconds_since_previous_session,
    -- Null if the account was created more than 100 years before the exit, or more than a day after it.
    {{ within(seconds(microseconds_between('profiles.created_at', 'exits.exited_at')), -86400, 3153600000) }}
        as seconds_since_account_created,

    -- profile
    {{ to_bigint('profiles.age') }} as age,
    {{ to_double('profiles.income') }} as income,
    profiles.employment_type,
    profiles.marital_status,
    {{ to_bigint("
        case when profiles.has_previous_year_filing then 1 when not profiles.has_previous_year_filing then 0 end
    ") }} as has_previous_year_filing,
    profiles.referral_source,

    -- proof that nothing here happened after the exit
    totals.last_event_at,
    totals.last_loaded_at
from exits
inner join totals on exits.exit_id = totals.exit_id
inner join last_sessions on exits.exit_id = last_sessions.exit_id
inner join gains on exits.exit_id = gains.exit_id
left join profiles on exits.exit_id = profiles.exit_id
{{ in_order_of('exited_on') }}
