{#- The state of some users as of the run's end. `of` is a CTE or model with their user_id. -#}

{#- The newest version first. If two were written at the same moment, the one that permits less wins: erased first, then without
    consent. crm_sync/suppression.py has the same order. -#}
{% macro newest_version_first(profiles) -%}
  {{ profiles }}.written_at desc,
  case when {{ profiles }}.erased_at is null then 1 else 0 end,
  case when {{ profiles }}.has_marketing_consent then 1 else 0 end
{%- endmacro %}

{% macro latest_profiles(of) -%}
    select
        profiles.user_id,
        profiles.has_marketing_consent,
        profiles.erased_at
    from {{ ref('stg_app__users') }} as profiles
    inner join {{ of }} on profiles.user_id = {{ of }}.user_id
    where profiles.written_at < {{ moment(var('until_at')) }}
    qualify row_number() over (partition by profiles.user_id order by {{ newest_version_first('profiles') }}) = 1
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

{#- True if the user is in the holdout and config/crm_fields.yml excludes the holdout from the CRM. -#}
{% macro is_hidden(desired) -%}
  ({{ 'false' if var('tell_holdout') else "coalesce(" ~ desired ~ ".experiment_arm, '') = 'holdout'" }})
{%- endmacro %}
