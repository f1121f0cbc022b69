-- The join drops rows of a run that never committed, as in stg_ops__decisions.
with shadow_scores as (
    select * from {{ source('ops', 'shadow_scores') }}
),

runs as (
    select run_id from {{ source('ops', 'runs') }}
)

select
    shadow_scores.exit_id,
    shadow_scores.user_id,
    shadow_scores.run_id,
    shadow_scores.model_version,
    shadow_scores.churn_probability,
    shadow_scores.scored_at
from shadow_scores
inner join runs on shadow_scores.run_id = runs.run_id
where {{ not_erased('shadow_scores.user_id') }}
