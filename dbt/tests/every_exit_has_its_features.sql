-- No exit is lost: the joins on the way to the candidates are inner joins, and must not drop one.
select exits.exit_id
from {{ ref('fct_unfinished_exits') }} as exits
left join {{ ref('fct_exit_features_logged') }} as features
    on
        exits.exit_id = features.exit_id
        and features.exited_on >= {{ first_day_in_reach() }}
where
    exits.exited_on >= {{ first_day_in_reach() }}
    and not exits.is_dissolved
    and features.exit_id is null
