select
    redemption_id,
    user_id,
    campaign,
    redeemed_at,
    loaded_at
from {{ source('app', 'voucher_redemptions') }}
