{{ config(
    materialized='incremental',
    incremental_strategy='merge',
    unique_key='user_id',
    cluster_by=by_user(),
) }}

-- All arrivals count here, even those too late for the sessions: a user who has finished must not get a voucher.
-- An outcome that arrives too late takes effect at its arrival: exits already decided keep their decisions.
with arrived as (
    select
        user_id,
        occurred_at,
        loaded_at,
        {{ outcome_of('event_name') }} as outcome,
        case
            when {{ is_too_late('occurred_at', 'loaded_at') }} then loaded_at
            else occurred_at
        end as effective_at
    from {{ ref('stg_app__events') }}
    where
        loaded_at >= {{ moment(var('from_at')) }}
        and loaded_at < {{ moment(var('until_at')) }}
),

first_of_window as (
    select
        user_id,
        min(case when outcome = 'finished' then occurred_at end) as finished_at,
        min(case when outcome = 'gave_up' then occurred_at end) as gave_up_at,
        min(case when outcome = 'closed' then occurred_at end) as closed_at,
        min(case when outcome = 'finished' then effective_at end) as finished_effective_at,
        min(case when outcome = 'gave_up' then effective_at end) as gave_up_effective_at,
        min(case when outcome = 'closed' then effective_at end) as closed_effective_at,
        max(loaded_at) as last_loaded_at
    from arrived
    where outcome is not null
    group by user_id
),

known as (
    select * from first_of_window
    {% if is_incremental() %}
        union all
        select
            known.user_id,
            known.finished_at,
            known.gave_up_at,
            known.closed_at,
            known.finished_effective_at,
            known.gave_up_effective_at,
            known.closed_effective_at,
            known.last_loaded_at
        from {{ this }} as known
        inner join first_of_window on known.user_id = first_of_window.user_id
    {% endif %}
),

firsts as (
    select
        user_id,
        min(finished_at) as finished_at,
        min(gave_up_at) as gave_up_at,
        min(closed_at) as closed_at,
        min(finished_effective_at) as finished_effective_at,
        min(gave_up_effective_at) as gave_up_effective_at,
        min(closed_effective_at) as closed_effective_at,
        max(last_loaded_at) as last_loaded_at
    from known
    group by user_id
)

select
    user_id,
    finished_at,
    gave_up_at,
    closed_at,
    finished_effective_at,
    gave_up_effective_at,
    closed_effective_at,
    least(
        coalesce(finished_effective_at, {{ moment('9999-12-31') }}),
        coalesce(gave_up_effective_at, {{ moment('9999-12-31') }}),
        coalesce(closed_effective_at, {{ moment('9999-12-31') }})
    ) as first_outcome_at,
    -- Finished takes precedence over every other recorded outcome.
    case
        when finished_at is not null then 'finished'
        when gave_up_at is not null then 'gave_up'
        else 'closed'
    end as outcome,
    last_loaded_at
from firsts
