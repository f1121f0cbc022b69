-- From midnight, like the exits, so that a decision a few hours older than from_at minus the reach still counts.
with decisions_in_reach as (
    select * from {{ ref('stg_ops__decisions') }}
    where decided_at >= {{ first_moment_in_reach() }}
),

decisions_in_cool_down as (
    select * from {{ ref('stg_ops__decisions') }}
    where decided_at >= {{ moment(var('from_at'), plus_days=-var('cool_down_days')) }}
),

-- Exits that closed within the backfill are history: the model learns from them, and they are never scored.
undecided as (
    select exits.*
    from {{ ref('fct_unfinished_exits') }} as exits
    where
        exits.exited_on >= {{ first_day_in_reach() }}
        and not exits.is_dissolved
        and exits.closed_at > {{ moment(var('history_until')) }}
        and exits.closed_at <= {{ moment(var('until_at')) }}
        and not exists (
            select 1 from decisions_in_reach
            where decisions_in_reach.exit_id = exits.exit_id
        )
),

users as (
    select distinct user_id from undecided
),

profiles as (
    {{ latest_profiles('users') }}
),

grants as (
    select
        decisions.user_id,
        max(decisions.decided_at) as last_granted_at
    from decisions_in_cool_down as decisions
    inner join users on decisions.user_id = users.user_id
    where decisions.is_eligible
    group by decisions.user_id
),

set_aside as (
    select distinct user_id from {{ ref('int_users_set_aside') }}
),

redemptions as (
    {{ last_redemptions('users') }}
)

select
    undecided.closed_at,
    case
        when profiles.erased_at is not null then 'erased'
        when outcomes.outcome is not null then outcomes.outcome
        when undecided.is_session_too_long then 'session_too_long'
        when set_aside.user_id is not null or features.exit_id is null then 'bad_data'
        when row_number() over (partition by undecided.user_id order by undecided.exited_at desc) > 1 then 'superseded'
    end as skip_reason,
    {{ stable_number('undecided.user_id') }} as user_number,
    profiles.user_id is not null as has_profile,
    coalesce(profiles.has_marketing_consent, false) as has_marketing_consent,
    grants.last_granted_at,
    redemptions.last_redeemed_at,
    undecided.exit_id,
    undecided.user_id,
    undecided.exited_at,
    undecided.exited_on,
    {{ all_but('features', ['exit_id', 'user_id', 'exited_at', 'exited_on']) }}
from undecided
-- A left join, so that an exit without features is recorded as skipped and not lost.
left join {{ ref('fct_exit_features_logged') }} as features
    on
        undecided.exit_id = features.exit_id
        and features.exited_on >= {{ first_day_in_reach() }}
left join set_aside on undecided.user_id = set_aside.user_id
left join profiles on undecided.user_id = profiles.user_id
left join {{ ref('int_outcomes') }} as outcomes on undecided.user_id = outcomes.user_id
left join grants on undecided.user_id = grants.user_id
left join redemptions on undecided.user_id = redemptions.user_id
