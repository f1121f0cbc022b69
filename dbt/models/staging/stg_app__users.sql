{#- The app owns this table, which may lack the time of arrival. A version then counts as arrived when written. -#}
{%- set users = source('app', 'users') -%}
{%- set loaded_at = 'loaded_at' if has_column(users, 'loaded_at') else 'cast(null as timestamp)' -%}

select
    user_id,
    created_at,
    updated_at,
    coalesce({{ loaded_at }}, updated_at) as loaded_at,
    {{ loaded_at }} is not null as is_arrival_known,
    -- An updated_at more than a day after the arrival comes from a wrong clock. Use the arrival instead, so that such a
    -- version does not override the ones written after it.
    case
        when updated_at > {{ add_days(loaded_at, 1) }} then {{ loaded_at }}
        else updated_at
    end as written_at,
    age,
    income,
    employment_type,
    marital_status,
    previous_year_filing as has_previous_year_filing,
    referral_source,
    country,
    marketing_consent as has_marketing_consent,
    erased_at
from {{ users }}
{{ where_in_scope('user_id', odd='user_id is null') }}
