"""Size of the audience, and the check that stops a sync when it has collapsed.

When the feed of consents, profiles or decisions breaks upstream, the desired state holds no score for any user. A sync would
then withdraw every voucher and every score at once.
"""

from __future__ import annotations

from core.errors import CircuitOpenError
from warehouse.interface import Reader, count

# With fewer users a ratio means little: a handful may finish within the hour.
MIN_AUDIENCE = 50


def count_audience(warehouse: Reader) -> int:
    """Number of users with a churn probability in the desired state."""
    return count(warehouse, f"{warehouse.relation('marts', 'crm_profiles')} where churn_probability is not null")


def check_audience_drop(now: int, before: int | None, min_ratio: float) -> CircuitOpenError | None:
    """Return an error when the audience is smaller than `min_ratio` times the last run's audience."""
    if before is None or before < MIN_AUDIENCE or now >= min_ratio * before:
        return None
    return CircuitOpenError(
        f"The audience has collapsed from {before} users to {now}: less than {min_ratio:.0%} of the last run's. Nothing was "
        "sent, because all other users would lose their scores and vouchers. Check that consents, profiles and decisions are "
        "loaded. If the drop is correct: winback run --allow-audience-drop"
    )
