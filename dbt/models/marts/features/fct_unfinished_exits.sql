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

with touched as (
    select * from {{ ref('int_users_touched') }}
),

current_exits as (
    select
        *,
        false as is_dissolved
    from {{ ref('int_exits_this_run') }}
)

select * from current_exits
{% if is_incremental() %}
    -- Exits that ceased to exist, because a late event moved them, joined their session or showed an earlier outcome.
    union all
    select
        before.exit_id,
        before.user_id,
        before.session_id,
        before.exited_at,
        before.exited_on,
        before.closed_at,
        false as is_session_too_long,
        true as is_dissolved
    from {{ this }} as before
    inner join touched on before.user_id = touched.user_id
    where
        before.exited_on >= {{ first_day_in_reach() }}
        and before.closed_at >= touched.first_new_at
        and not before.is_dissolved
        and not exists (select 1 from current_exits where current_exits.exit_id = before.exit_id)
{% endif %}
{{ in_order_of('exited_on') }}
