-- A rule that a fifth of all users break, and at least 50 users, points to a fault in the tables, not in single rows.
with exits as (
    select count(distinct user_id) as count_users
    from {{ ref('fct_unfinished_exits') }}
    where
        exited_on >= {{ first_day_in_reach() }}
        and not is_dissolved
),

broken as (
    select
        broken_rule,
        count(distinct user_id) as count_users
    from {{ ref('int_users_set_aside') }}
    group by broken_rule
)

select
    broken.broken_rule,
    broken.count_users,
    exits.count_users as count_users_with_exits
from broken
cross join exits
where {{ is_the_whole('broken.count_users', 'exits.count_users') }}
