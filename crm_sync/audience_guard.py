"""Size of the audience, and the check that stops a sync when it has collapsed.

When the feed of consents, profiles or decisions breaks upstream, the desired state says of everybody that they are not to be
scored, and a sync would take every voucher and score away in one go.
"""

from __future__ import annotations

from core.errors import CircuitOpenError
from warehouse.interface import Reader, count

# Of fewer users a share says little: a handful may well finish within the hour.
MIN_AUDIENCE = 50


def count_audience(warehouse: Reader) -> int:
    """Users whom the desired state gives a churn probability."""
    return count(warehouse, f"{warehouse.relation('marts', 'crm_profiles')} where churn_probability is not null")


def check_audience_drop(now: int, before: int | None, min_ratio: float) -> CircuitOpenError | None:
    """Why not to go on, when the audience is smaller than this share of what it was at the last run."""
    if before is None or before < MIN_AUDIENCE or now >= min_ratio * before:
        return None
    return CircuitOpenError(
        f"The audience has collapsed from {before} users to {now}: less than {min_ratio:.0%} of the last run's. Nothing was "
        "sent, for scores and vouchers would be taken away from all the others. Are consents, profiles and decisions loaded as "
        "ever? If it is right so: winback hourly --accept-audience"
    )
