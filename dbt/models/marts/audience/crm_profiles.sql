{{ config(
    materialized='incremental',
    incremental_strategy='merge',
    unique_key='user_id',
    cluster_by=by_user(),
    on_schema_change='append_new_columns',
) }}

{#- The columns that this model carries over from one build to the next. -#}
{% set memory = [
    'last_decided_at', 'last_probability', 'last_risk_band', 'last_reasons', 'last_model_version', 'last_refusal',
    'last_granted_at', 'last_grant_valid_until', 'experiment_arm',
] %}

with decided as (
    select * from {{ ref('stg_ops__decisions') }}
    where
        disposition = 'scored'
        and decided_at > {{ moment(var('profiles_from')) }}
        and decided_at <= {{ moment(var('until_at')) }}
),

last_decisions as (
    select
        user_id,
        decided_at as last_decided_at,
        round(churn_probability, 4) as last_probability,
        churn_risk_band as last_risk_band,
        churn_reasons as last_reasons,
        model_version as last_model_version,
        eligibility_reason as last_refusal,
        experiment_arm
    from decided
    qualify row_number() over (partition by user_id order by decided_at desc, exited_at desc) = 1
),

last_grants as (
    select
        user_id,
        decided_at as last_granted_at,
        valid_until as last_grant_valid_until
    from decided
    where is_eligible
    qualify row_number() over (partition by user_id order by decided_at desc, exited_at desc) = 1
),

{% if is_incremental() %}
    news as (
        select user_id from last_decisions
        union distinct
        select user_id from {{ ref('int_outcomes') }}
        where last_loaded_at >= {{ moment(var('profiles_from')) }}
        union distinct
        -- A version may arrive long after it was written.
        select user_id from {{ ref('stg_app__users') }}
        where
            loaded_at >= {{ moment(var('profiles_from')) }}
            or updated_at >= {{ moment(var('profiles_from'), plus_days=-var('max_lateness_days')) }}
        union distinct
        -- If the arrival of a version is unknown, check again every user with a score or voucher to withdraw.
        select before.user_id
        from {{ this }} as before
        inner join {{ ref('stg_app__users') }} as profiles on before.user_id = profiles.user_id
        where
            (before.is_voucher_eligible or before.churn_probability is not null)
            and not profiles.is_arrival_known
            and (profiles.erased_at is not null or not coalesce(profiles.has_marketing_consent, false))
        union distinct
        select user_id from {{ ref('stg_app__voucher_redemptions') }}
        where loaded_at >= {{ moment(var('profiles_from')) }}
        union distinct
        select user_id from {{ this }}
        where is_voucher_eligible and voucher_valid_until <= {{ moment(var('until_at')) }}
        union distinct
        -- A run whose clock was ahead may have expired vouchers that are still valid.
        select user_id from {{ this }}
        where
            voucher_reason in ('expired', last_refusal)
            and last_grant_valid_until > {{ moment(var('until_at')) }}
    ),

    remembered as (
        select
            before.user_id,
            {% for column in memory %} before.{{ column }}, {% endfor %}
        from {{ this }} as before
        inner join news on before.user_id = news.user_id
    ),

    known as (
        select
            news.user_id,
            coalesce(last_decisions.last_decided_at, remembered.last_decided_at) as last_decided_at,
            {% for column in ['last_probability', 'last_risk_band', 'last_reasons', 'last_model_version', 'last_refusal', 'experiment_arm'] %}
                case
                    when last_decisions.user_id is not null then last_decisions.{{ column }}
                    else remembered.{{ column }}
                end as {{ column }},
            {% endfor %}
            coalesce(last_grants.last_granted_at, remembered.last_granted_at) as last_granted_at,
            coalesce(last_grants.last_grant_valid_until, remembered.last_grant_valid_until) as last_grant_valid_until
        from news
        left join last_decisions on news.user_id = last_decisions.user_id
        left join last_grants on news.user_id = last_grants.user_id
        left join remembered on news.user_id = remembered.user_id
        where last_decisions.user_id is not null or remembered.user_id is not null
    ),
{% else %}
    known as (
        select
            last_decisions.*,
            last_grants.last_granted_at,
            last_grants.last_grant_valid_until
        from last_decisions
        left join last_grants on last_decisions.user_id = last_grants.user_id
    ),
{% endif %}

consents as (
    {{ latest_profiles('known') }}
),

redemptions as (
    {{ last_redemptions('known') }}
),

-- The first reason to withdraw a score or a voucher, if any.
ended as (
    select
        known.*,
        consents.erased_at is not null as is_erased,
        case
            when outcomes.outcome is not null then outcomes.outcome
            when consents.user_id is null then 'no_profile'
            when not coalesce(consents.has_marketing_consent, false) then 'no_consent'
        end as unscored_because,
        case
            when known.last_granted_at is null then known.last_refusal
            when redemptions.last_redeemed_at >= known.last_granted_at then 'redeemed'
            when known.last_grant_valid_until <= {{ moment(var('until_at')) }}
                then case when known.last_decided_at > known.last_granted_at then known.last_refusal else 'expired' end
        end as not_eligible_because
    from known
    left join consents on known.user_id = consents.user_id
    left join redemptions on known.user_id = redemptions.user_id
    left join {{ ref('int_outcomes') }} as outcomes on known.user_id = outcomes.user_id
),

desired as (
    select
        user_id,
        {% for column in memory %}
            {{ column }},
        {% endfor %}
        is_erased,
        case when unscored_because is null then last_probability end as churn_probability,
        case when unscored_because is null then last_risk_band end as churn_risk_band,
        case when unscored_because is null then last_reasons end as churn_reasons,
        last_decided_at as churn_scored_at,
        last_model_version as churn_model_version,
        coalesce(unscored_because, not_eligible_because) is null as is_voucher_eligible,
        coalesce(unscored_because, not_eligible_because, 'granted') as voucher_reason,
        case when coalesce(unscored_because, not_eligible_because) is null then last_grant_valid_until end
            as voucher_valid_until
    from ended
)

select
    *,
    -- Hash of the state that the CRM must hold. A dead letter is not sent again until this changes.
    {{ md5_hex("concat(
        case
            when churn_probability between 0 and 1
                then cast(cast(round(churn_probability * 10000, 0) as bigint) as string)
            when churn_probability is not null then 'no probability'
            else ''
        end, '|',
        coalesce(churn_risk_band, ''), '|',
        coalesce(churn_reasons, ''), '|',
        case when is_voucher_eligible then 'eligible' else '' end, '|',
        voucher_reason, '|',
        coalesce(cast(" ~ microseconds('voucher_valid_until') ~ " as string), ''), '|',
        experiment_arm
    )") }} as desired_hash
from desired
