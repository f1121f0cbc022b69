select
    run_id,
    epoch,
    user_id,
    desired_hash,
    fields_sent,
    attempted_at,
    cast(attempted_at as date) as attempted_on,
    outcome,
    http_status,
    error_code,
    error_reason,
    churn_probability,
    churn_risk_band,
    churn_reasons,
    churn_scored_at,
    churn_model_version,
    is_voucher_eligible,
    voucher_reason,
    voucher_valid_until,
    experiment_arm,
    crm_number
from {{ source('ops', 'deliveries') }}
where {{ not_erased('user_id') }}
