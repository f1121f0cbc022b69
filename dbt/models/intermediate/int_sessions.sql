{{ config(
    materialized='incremental',
    incremental_strategy='merge',
    unique_key='session_id',
    partition_by=by_day('started_on'),
    require_partition_filter=filter_required(),
    cluster_by=by_user(),
    incremental_predicates=["DBT_INTERNAL_DEST.started_on >= " ~ first_day_in_reach()],
    on_schema_change='append_new_columns',
) }}

{#- Named one by one, because the union below matches columns by position and a table may have columns appended. -#}
{% set columns = [
    'session_id', 'user_id', 'started_at', 'ended_at', 'started_on', 'duration_microseconds', 'count_events',
    'count_navigation', 'count_input', 'count_upload', 'count_help', 'count_error', 'count_event_names', 'count_steps',
    'count_devices', 'count_pauses', 'longest_pause_microseconds', 'fields_filled_ratio', 'furthest_step_index',
    'last_step_index', 'device_type', 'last_event_name', 'last_loaded_at',
] %}

with touched as (
    select * from {{ ref('int_users_touched') }}
),

current_sessions as (
    select
        {{ columns | join(', ') }},
        is_too_long,
        is_cut,
        false as is_dissolved
    from {{ ref('int_sessions_this_run') }}
)

select * from current_sessions
{% if is_incremental() %}
    -- A late event may join two sessions, so that the second ceases to exist. A merge on the id alone would leave it behind.
    union all
    select
        {% for column in columns %} before.{{ column }}, {% endfor %}
        false as is_too_long,
        false as is_cut,
        true as is_dissolved
    from {{ this }} as before
    inner join touched on before.user_id = touched.user_id
    where
        before.started_on >= {{ first_day_in_reach() }}
        and before.started_at >= {{ earliest_change('touched.first_new_at') }}
        and not before.is_dissolved
        and not exists (select 1 from current_sessions where current_sessions.session_id = before.session_id)
{% endif %}
{{ in_order_of('started_on') }}
