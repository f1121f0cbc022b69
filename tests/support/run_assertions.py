"""Assertions for tests of whole runs: decisions, deliveries and grants; and a CRM that fails and recovers."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from jobs.hourly.run import hourly
from tests.support.crm.local_crm import fault
from tests.support.environment import World, at

# The expected attributes of a user in the CRM.
DESIRED = """
    select
        user_id, churn_probability, churn_risk_band, is_voucher_eligible, voucher_reason, voucher_valid_until, experiment_arm
    from marts.crm_profiles
"""


def decisions(world: World) -> list[dict[str, Any]]:
    return world.query("select * from staging.stg_ops__decisions order by exit_id")


def delivered(world: World) -> list[str]:
    sql = "select user_id from ops.deliveries where outcome = 'delivered' order by user_id"
    return [row["user_id"] for row in world.query(sql)]


def granted(world: World) -> list[str]:
    sql = "select user_id from marts.crm_profiles where is_voucher_eligible order by user_id"
    return [row["user_id"] for row in world.query(sql)]


def assert_crm_holds_the_desired_state(world: World) -> None:
    held = world.crm.store.profiles()
    for row in world.query(DESIRED):
        attributes = held.get(row["user_id"])
        if attributes is None:
            # Users without a desired state are not sent to the CRM.
            assert row["churn_probability"] is None
            continue
        assert attributes["voucher_eligible"] == row["is_voucher_eligible"]
        assert attributes["voucher_reason"] == row["voucher_reason"]
        assert attributes["experiment_arm"] == row["experiment_arm"]
        assert attributes.get("churn_risk_band") == row["churn_risk_band"]
        if row["churn_probability"] is None:
            assert "churn_probability" not in attributes
        else:
            assert attributes["churn_probability"] == pytest.approx(row["churn_probability"], abs=0.05)


def take_crm_down(world: World) -> None:
    fault(world.crm, kind="status", status=503, times=1_000)


def restore_crm(world: World) -> None:
    requests.delete(f"{world.crm.url}/_control/faults", timeout=5).raise_for_status()


def a_candidate(world: World) -> str:
    """Return a user in the next run's sync, found by a dry run."""
    with world.context() as context:
        hourly(context, at(1), dry_run=True)
    sql = "select user_id from marts.fct_scoring_candidates where has_marketing_consent order by user_id limit 1"
    return str(world.query(sql)[0]["user_id"])
