-- Whoever had finished, given up or been closed by then did not leave unfinished; also when that was learnt later.
select
    exits.exit_id,
    exits.closed_at,
    outcomes.first_outcome_at
from {{ ref('fct_unfinished_exits') }} as exits
inner join {{ ref('int_outcomes') }} as outcomes on exits.user_id = outcomes.user_id
where
    exits.exited_on >= {{ first_day_in_reach() }}
    and not exits.is_dissolved
    and outcomes.first_outcome_at <= exits.closed_at
