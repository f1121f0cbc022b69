{{ config(materialized='view') }}

with desired as (
    select * from {{ ref('crm_profiles') }}
),

acknowledged as (
    select * from {{ ref('crm_acknowledged') }}
)

select
    desired.user_id,
    desired.desired_hash,
    -- Why the row is not sent although the CRM holds a different state.
    case
        when desired.is_erased then 'erased'
        when {{ is_hidden('desired') }} then 'holdout'
    end as suppressed_because,
    -- Withdrawals are sent first: a late grant costs little, but a late withdrawal means a wrong message to the user.
    (coalesce(acknowledged.is_voucher_eligible, false) or coalesce(acknowledged.is_in_doubt, false))
    and not desired.is_voucher_eligible as is_withdrawal,
    -- It is uncertain what the CRM holds, so every field is sent.
    coalesce(acknowledged.is_in_doubt, false) as is_in_doubt,
    desired.churn_probability,
    desired.churn_risk_band,
    desired.churn_reasons,
    desired.churn_scored_at,
    desired.churn_model_version,
    desired.is_voucher_eligible,
    desired.voucher_reason,
    desired.voucher_valid_until,
    desired.experiment_arm,
    acknowledged.churn_probability as acknowledged_churn_probability,
    acknowledged.churn_risk_band as acknowledged_churn_risk_band,
    acknowledged.churn_reasons as acknowledged_churn_reasons,
    acknowledged.churn_scored_at as acknowledged_churn_scored_at,
    acknowledged.churn_model_version as acknowledged_churn_model_version,
    acknowledged.is_voucher_eligible as acknowledged_is_voucher_eligible,
    acknowledged.voucher_reason as acknowledged_voucher_reason,
    acknowledged.voucher_valid_until as acknowledged_voucher_valid_until,
    acknowledged.experiment_arm as acknowledged_experiment_arm
from desired
left join acknowledged on desired.user_id = acknowledged.user_id
where
    -- A user who was never sent to the CRM, and has nothing to send now, is not pending.
    (
        acknowledged.acknowledged_at is not null
        or acknowledged.is_in_doubt
        or (desired.churn_probability is not null and not desired.is_erased and not {{ is_hidden('desired') }})
    )
    and desired.desired_hash is distinct from acknowledged.rejected_hash
    and (
        acknowledged.is_in_doubt
        or desired.churn_risk_band is distinct from acknowledged.churn_risk_band
        or desired.churn_reasons is distinct from acknowledged.churn_reasons
        or desired.is_voucher_eligible is distinct from acknowledged.is_voucher_eligible
        or desired.voucher_reason is distinct from acknowledged.voucher_reason
        or desired.voucher_valid_until is distinct from acknowledged.voucher_valid_until
        or desired.experiment_arm is distinct from acknowledged.experiment_arm
        -- Each attribute written costs money: a score that moved by less than the step waits for another change.
        or (desired.churn_probability is null) is distinct from (acknowledged.churn_probability is null)
        -- Rounded to 4 decimals, because .70 - .65 is less than .05 in binary.
        or round(abs(desired.churn_probability - acknowledged.churn_probability), 4)
        >= {{ var('churn_probability_step') }}
    )
