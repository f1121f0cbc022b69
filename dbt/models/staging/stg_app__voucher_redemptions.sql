select
    redemption_id,
    user_id,
    campaign,
    redeemed_at,
    loaded_at
from {{ source('app', 'voucher_redemptions') }}
{{ where_in_scope('user_id', 'loaded_at') }}
