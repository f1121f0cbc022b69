{#- What is known of some users as of the run's end. `of` is a CTE or model with their user_id. -#}

{% macro latest_profiles(of) -%}
    select
        profiles.user_id,
        profiles.has_marketing_consent,
        profiles.erased_at
    from {{ ref('stg_app__users') }} as profiles
    inner join {{ of }} on profiles.user_id = {{ of }}.user_id
    where profiles.updated_at < {{ moment(var('until_at')) }}
    qualify row_number() over (partition by profiles.user_id order by profiles.updated_at desc) = 1
{%- endmacro %}

{% macro last_redemptions(of) -%}
    select
        redemptions.user_id,
        max(redemptions.redeemed_at) as last_redeemed_at
    from {{ ref('stg_app__voucher_redemptions') }} as redemptions
    inner join {{ of }} on redemptions.user_id = {{ of }}.user_id
    where redemptions.loaded_at < {{ moment(var('until_at')) }}
    group by redemptions.user_id
{%- endmacro %}
