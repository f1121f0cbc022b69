{#- Maximum age of a voucher that was valid at the exit, in days: 90, with room above the 7 of config/vouchers.yml. -#}
{% set longest_validity_days = 90 %}
{#- Not partitioned, because each training rebuilds the table from these days and reads all of it. -#}
{% set first_day = day(var('until_at'), -var('training_history_days')) %}

-- An exit has matured when the label window has passed, and also the time in which its events may still arrive.
with matured as (
    select
        exit_id,
        user_id,
        exited_at,
        {{ add_days('exited_at', var('label_window_days')) }} as label_until
    from {{ ref('fct_unfinished_exits') }}
    where
        exited_on >= {{ first_day }}
        and not is_dissolved
        -- Such exits are never scored, so the model does not learn from them.
        and not coalesce(is_session_too_long, false)
        and exited_at < {{ moment(var('until_at'), plus_days=-(var('label_window_days') + var('max_lateness_days'))) }}
),

decisions as (
    select * from {{ ref('stg_ops__decisions') }}
    where decided_at >= {{ moment(var('until_at'), plus_days=-(var('training_history_days') + longest_validity_days)) }}
),

features as (
    select * from {{ ref('fct_exit_features_logged') }}
    where exited_on >= {{ first_day }}
),

-- Exits whose user held a voucher at any time within the label window, from this decision or another.
treated as (
    select distinct matured.exit_id
    from matured
    inner join decisions on matured.user_id = decisions.user_id
    where
        decisions.is_eligible
        and decisions.decided_at < matured.label_until
        and decisions.valid_until > matured.exited_at
),

labelled as (
    select
        matured.*,
        case
            -- Finished before the exit, but the event arrived too late to dissolve it: nothing was left to finish.
            when outcomes.finished_at <= matured.exited_at then null
            when outcomes.finished_at <= matured.label_until then 0
            -- Closed by someone other than the user, so the user's own outcome is unknown.
            when outcomes.closed_at > matured.exited_at and outcomes.closed_at <= matured.label_until then null
            else 1
        end as label
    from matured
    left join {{ ref('int_outcomes') }} as outcomes on matured.user_id = outcomes.user_id
)

select
    {{ to_bigint('labelled.label') }} as label,
    labelled.label_until,
    coalesce(decisions.experiment_arm, 'none') as experiment_arm,
    treated.exit_id is not null as is_treated,
    features.*
from labelled
inner join features on labelled.exit_id = features.exit_id
left join decisions on labelled.exit_id = decisions.exit_id
left join treated on labelled.exit_id = treated.exit_id
where
    labelled.label is not null
    -- Exits that were set aside are excluded from training.
    and coalesce(decisions.skip_reason, '') != 'bad_data'
