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

-- Only deliveries not folded before; folding one twice changes nothing.
with deliveries as (
    select * from {{ ref('stg_ops__deliveries') }}
    where
        attempted_at >= {{ moment(var('fold_from_at')) }}
        and epoch >= {{ var('fold_from_epoch') }}
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
)

select
    last_verdicts.user_id,
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
    -- A dead letter: refused by the CRM, not sent again until the desired state changes or a person asks for it.
    case when last_verdicts.outcome = 'rejected' then last_verdicts.desired_hash end as rejected_hash,
    case when last_verdicts.outcome = 'rejected' then last_verdicts.error_code end as rejected_code,
    case when last_verdicts.outcome = 'rejected' then last_verdicts.attempted_at end as rejected_at
from last_verdicts
left join last_delivered on last_verdicts.user_id = last_delivered.user_id
{% if is_incremental() %}
    left join {{ this }} as before on last_verdicts.user_id = before.user_id
{% endif %}
