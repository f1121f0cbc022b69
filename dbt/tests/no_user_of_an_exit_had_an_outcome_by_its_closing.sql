-- Whoever had finished, given up or been closed by then did not leave unfinished.
select
    exits.exit_id,
    exits.closed_at,
    outcomes.first_outcome_at
from {{ ref('int_exits_this_run') }} as exits
inner join {{ ref('int_outcomes') }} as outcomes on exits.user_id = outcomes.user_id
where outcomes.first_outcome_at <= exits.closed_at
