{{ config(
    materialized='incremental',
    incremental_strategy='merge',
    unique_key='user_id',
    cluster_by=by_user(),
    on_schema_change='append_new_columns',
) }}

{% set fields = [
    'churn_probability', 'churn_risk_band', 'churn_reasons', 'churn_scored_at', 'churn_model_version',
    'is_voucher_eligible', 'voucher_reason', 'voucher_valid_until', 'experiment_arm',
] %}

-- Only deliveries that were not yet folded in. Folding one in twice has no effect.
with deliveries as (
    select * from {{ ref('stg_ops__deliveries') }}
    where
        attempted_at >= {{ moment(var('fold_from_at')) }}
        and epoch >= {{ var('fold_from_epoch') }}
        -- What another CRM acknowledged does not count. Rows of earlier versions have no number.
        and coalesce(crm_number, 0) >= {{ var('crm_since') }}
),

users as (
    select distinct user_id from deliveries
),

last_delivered as (
    select * from deliveries
    where outcome = 'delivered'
    qualify row_number() over (partition by user_id order by epoch desc, attempted_at desc, run_id desc) = 1
),

last_verdicts as (
    select * from deliveries
    where outcome in ('delivered', 'rejected', 'retry')
    qualify row_number() over (partition by user_id order by epoch desc, attempted_at desc, run_id desc) = 1
),

attempts as (
    select
        user_id,
        run_id,
        max(epoch) as epoch,
        min(attempted_at) as began_at,
        max(case when outcome != 'sending' then attempted_at end) as answered_at,
        max(case when outcome = 'delivered' then attempted_at end) as delivered_at
    from deliveries
    where outcome != 'retry'
    group by user_id, run_id
),

-- Sent without a reply: the CRM holds the earlier state or the sent one. A delivery by a later run resolves this.
unanswered as (
    select attempts.user_id
    from attempts
    left join last_delivered on attempts.user_id = last_delivered.user_id
    where
        attempts.answered_at is null
        and (
            last_delivered.user_id is null
            -- Compare epochs first, because the clocks of two machines may differ.
            or last_delivered.epoch < attempts.epoch
            or (last_delivered.epoch = attempts.epoch and last_delivered.attempted_at < attempts.began_at)
        )
),

-- The CRM received a delivery of an older run after the newest run had begun, so it is unknown which one it applied
-- last. A delivery by a third run resolves this.
overtaken as (
    select older.user_id
    from last_delivered
    inner join attempts as newest
        on last_delivered.user_id = newest.user_id and last_delivered.run_id = newest.run_id
    inner join attempts as older
        on last_delivered.user_id = older.user_id and last_delivered.run_id != older.run_id
    where older.delivered_at > newest.began_at
),

doubtful as (
    select user_id from unanswered
    union distinct
    select user_id from overtaken
)

select
    users.user_id,
    {% for field in fields %}
        {% if is_incremental() %}
            case when last_delivered.user_id is not null then last_delivered.{{ field }} else before.{{ field }} end
                as {{ field }},
        {% else %}
            last_delivered.{{ field }},
        {% endif %}
    {% endfor %}
    {% if is_incremental() %}
        coalesce(last_delivered.attempted_at, before.acknowledged_at) as acknowledged_at,
    {% else %}
        last_delivered.attempted_at as acknowledged_at,
    {% endif %}
    -- A dead letter: a state that the CRM rejected. It is sent again only if the desired state changes or a person
    -- requests a retry.
    {% for name, source in [
        ('rejected_hash', 'desired_hash'), ('rejected_code', 'error_code'), ('rejected_reason', 'error_reason'),
        ('rejected_at', 'attempted_at'),
    ] %}
        {% if is_incremental() %}
            case
                when last_verdicts.outcome = 'rejected' then last_verdicts.{{ source }}
                when last_verdicts.user_id is null then before.{{ name }}
            end as {{ name }},
        {% else %}
            case when last_verdicts.outcome = 'rejected' then last_verdicts.{{ source }} end as {{ name }},
        {% endif %}
    {% endfor %}
    {% if is_incremental() %}
        doubtful.user_id is not null or (last_delivered.user_id is null and coalesce(before.is_in_doubt, false))
            as is_in_doubt
    {% else %}
        doubtful.user_id is not null as is_in_doubt
    {% endif %}
from users
left join last_verdicts on users.user_id = last_verdicts.user_id
left join last_delivered on users.user_id = last_delivered.user_id
left join doubtful on users.user_id = doubtful.user_id
{% if is_incremental() %}
    left join {{ this }} as before on users.user_id = before.user_id
{% endif %}
