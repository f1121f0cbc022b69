-- Rows of a run that never committed stay in the table; the join drops them. It also drops the rows of a run whose
-- clock was ahead, after a repair has written them again.
with decisions as (
    select * from {{ source('ops', 'decisions') }}
),

runs as (
    {{ runs_that_count() }}
)

select
    decisions.exit_id,
    decisions.user_id,
    decisions.exited_at,
    decisions.run_id,
    decisions.epoch,
    decisions.decided_at,
    cast(decisions.decided_at as date) as decided_on,
    decisions.disposition,
    decisions.skip_reason,
    decisions.churn_probability,
    decisions.churn_risk_band,
    decisions.churn_reasons,
    decisions.model_version,
    decisions.policy_version,
    decisions.experiment_arm,
    decisions.is_eligible,
    decisions.eligibility_reason,
    decisions.valid_until
from decisions
inner join runs on decisions.run_id = runs.run_id
where {{ not_erased('decisions.user_id') }}
