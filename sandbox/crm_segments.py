"""Which segments would marketing build from winback's fields? Rules over profiles, in words and in SQL."""

from dataclasses import dataclass


def field_sql(name: str) -> str:
    """Return the SQL of an attribute's value. The name is ours, never a request's."""
    return f"json_extract(attributes, '$.{name}')"


_HIGH = f"{field_sql('churn_risk_band')} = 'high'"
_HOLDOUT = f"{field_sql('experiment_arm')} = 'holdout'"
# json_type tells true from 1: an attribute that arrived as a number is not an eligibility.
_ELIGIBLE = "json_type(attributes, '$.voucher_eligible') = 'true'"
_WAS_ELIGIBLE = (
    "exists (select 1 from writes where writes.external_id = profiles.external_id"
    " and json_type(changed, '$.voucher_eligible[0]') = 'true')"
)
HAS_SCORE = "json_type(attributes, '$.churn_probability') in ('real', 'integer')"


@dataclass(frozen=True)
class Segment:
    """A saved filter over profiles, as marketing would build it in a CRM."""

    slug: str
    title: str
    rule: str  # in words, for people
    where: str  # the same rule in SQL


SEGMENTS = {
    segment.slug: segment
    for segment in (
        Segment(
            "high-risk-voucher",
            "High risk, voucher eligible, not in holdout",
            "Risk band is high, a voucher may be offered, arm is treatment",
            f"{_HIGH} and {_ELIGIBLE} and {field_sql('experiment_arm')} = 'treatment'",
        ),
        Segment(
            "high-risk-holdout",
            "High risk, holdout",
            "Risk band is high, arm is holdout: do not target, compare with them",
            f"{_HIGH} and {_HOLDOUT}",
        ),
        Segment("voucher-eligible", "Voucher eligible", "A voucher may be offered now", _ELIGIBLE),
        Segment(
            "voucher-withdrawn",
            "Voucher withdrawn",
            "Was eligible once and is not any more",
            f"json_type(attributes, '$.voucher_eligible') = 'false' and {_WAS_ELIGIBLE}",
        ),
        Segment("medium-risk", "Medium risk", "Risk band is medium", f"{field_sql('churn_risk_band')} = 'medium'"),
        Segment("low-risk", "Low risk", "Risk band is low", f"{field_sql('churn_risk_band')} = 'low'"),
        Segment(
            "no-longer-scored",
            "No longer scored",
            "Has an experiment arm but no churn probability",
            f"{field_sql('experiment_arm')} is not null and {field_sql('churn_probability')} is null",
        ),
    )
}

TOTALS = {"profiles": "true", "voucher_eligible": _ELIGIBLE, "high_risk": _HIGH, "in_holdout": _HOLDOUT}
