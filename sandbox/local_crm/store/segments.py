"""Segments over winback's fields, as marketing would build them: each rule in words and in SQL.

The first three are those of docs/marketing/segments.md; the others help to explain them. In SQL, `:now` is the time, ISO 8601.
"""

from dataclasses import dataclass


def field_sql(name: str) -> str:
    """Return the SQL of an attribute's value. The name comes from our code, never from a request."""
    return f"json_extract(attributes, '$.{name}')"


def _is(name: str, value: str) -> str:
    return f"{field_sql(name)} = '{value}'"


# json_type distinguishes true from 1: an attribute that arrived as a number does not make a user eligible.
_IS_ELIGIBLE = "json_type(attributes, '$.voucher_eligible') = 'true'"
_IS_NOT_ELIGIBLE = "json_type(attributes, '$.voucher_eligible') = 'false'"
_VALID_UNTIL = f"julianday({field_sql('voucher_valid_until')})"
_IS_VALID = f"{_VALID_UNTIL} > julianday(:now)"
_ELIGIBLE = f"{_IS_ELIGIBLE} and {_IS_VALID}"
_TREATMENT, _HOLDOUT = _is("experiment_arm", "treatment"), _is("experiment_arm", "holdout")
_HIGH = _is("churn_risk_band", "high")
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
    is_for_campaigns: bool = False  # one of the segments of docs/marketing/segments.md


SEGMENTS = {
    segment.slug: segment
    for segment in (
        Segment(
            "high-risk-voucher",
            "High risk and eligible, not holdout",
            "Risk band is high, voucher eligible is true, arm is treatment, valid until lies ahead",
            f"{_HIGH} and {_ELIGIBLE} and {_TREATMENT}",
            is_for_campaigns=True,
        ),
        Segment(
            "reminder",
            "Reminder without a voucher",
            "Risk band is medium, voucher eligible is false, arm is treatment",
            f"{_is('churn_risk_band', 'medium')} and {_IS_NOT_ELIGIBLE} and {_TREATMENT}",
            is_for_campaigns=True,
        ),
        Segment(
            "holdout",
            "Holdout",
            "Arm is holdout: exclude it from every campaign, compare with it",
            _HOLDOUT,
            is_for_campaigns=True,
        ),
        Segment("voucher-eligible", "Voucher eligible", "A voucher may be offered now, in any risk band", _ELIGIBLE),
        Segment(
            "voucher-withdrawn",
            "Voucher withdrawn",
            "Was eligible once and is not any more",
            f"{_IS_NOT_ELIGIBLE} and {_WAS_ELIGIBLE}",
        ),
        Segment("medium-risk", "Medium risk", "Risk band is medium", _is("churn_risk_band", "medium")),
        Segment("low-risk", "Low risk", "Risk band is low", _is("churn_risk_band", "low")),
        Segment(
            "no-longer-scored",
            "No longer scored",
            "Has an experiment arm but no churn probability",
            f"{field_sql('experiment_arm')} is not null and {field_sql('churn_probability')} is null",
        ),
    )
}

TOTALS = {"profiles": "true", "voucher_eligible": _ELIGIBLE, "high_risk": _HIGH, "in_holdout": _HOLDOUT}
