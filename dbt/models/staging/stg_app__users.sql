select
    user_id,
    created_at,
    updated_at,
    age,
    income,
    employment_type,
    marital_status,
    previous_year_filing as has_previous_year_filing,
    referral_source,
    country,
    marketing_consent as has_marketing_consent,
    erased_at
from {{ source('app', 'users') }}
{{ where_in_scope('user_id', odd='user_id is null') }}
