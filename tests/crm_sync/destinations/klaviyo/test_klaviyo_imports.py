"""Imports to Klaviyo: requests reach it, and its profiles get the values. Uses real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crm_sync.destination import BatchRefusedError
from crm_sync.destinations.klaviyo.client import KlaviyoOptions, profile_of
from crm_sync.diff import Change
from sandbox.local_crm.server import LocalCrm
from tests.support.crm.klaviyo import COMPLETE, DELIVERED, JOBS, KEY, changes, described_crm, job, klaviyo, rejected
from tests.support.crm.local_api import Canned, FakeRunContext, scripted_server
from tests.support.crm.local_crm import fault


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def crm(tmp_path: Path, run: FakeRunContext) -> Iterator[LocalCrm]:
    with described_crm(tmp_path, run) as server:
        yield server


@pytest.mark.parametrize(
    ("attributes", "profile"),
    [
        ({"score": 0.8421}, {"attributes": {"external_id": "ada", "properties": {"score": 0.8421}}}),
        ({"band": "high"}, {"attributes": {"external_id": "ada", "properties": {"band": "high"}}}),
        ({"eligible": False}, {"attributes": {"external_id": "ada", "properties": {"eligible": False}}}),
        (
            {"until": "2026-06-22T10:00:00Z"},
            {"attributes": {"external_id": "ada", "properties": {"until": "2026-06-22T10:00:00Z"}}},
        ),
        ({"reasons": ["a", "b"]}, {"attributes": {"external_id": "ada", "properties": {"reasons": ["a", "b"]}}}),
        ({"reasons": []}, {"attributes": {"external_id": "ada", "properties": {"reasons": []}}}),
        (
            {"until": None, "band": "low"},
            {
                "attributes": {"external_id": "ada", "properties": {"band": "low"}},
                "meta": {"patch_properties": {"unset": ["until"]}},
            },
        ),
        (
            {"until": None},
            {"attributes": {"external_id": "ada"}, "meta": {"patch_properties": {"unset": ["until"]}}},
        ),
    ],
)
def test_a_value_of_every_type_is_set_and_none_is_unset_by_name(attributes: Any, profile: Any) -> None:
    assert profile_of(Change("ada", attributes)) == {"type": "profile", **profile}


def test_an_import_carries_the_key_the_revision_and_the_run_and_nothing_but_ids_and_properties(
    run: FakeRunContext,
) -> None:
    with scripted_server(Canned(202, job())) as server:
        assert klaviyo(server.url, revision="2026-10-15").send(changes("ada"), run) == [DELIVERED]
    asked = server.asked[0]
    assert (asked.method, asked.path) == ("POST", JOBS)
    assert asked.headers["authorization"] == f"Klaviyo-API-Key {KEY}"
    assert asked.headers["revision"] == "2026-10-15"
    assert asked.headers["content-type"] == "application/vnd.api+json"
    assert asked.headers["user-agent"] == "winback (00000007-test)"
    profile = {"type": "profile", "attributes": {"external_id": "ada", "properties": {"score": 0.5}}}
    assert asked.body == {"data": {"type": "profile-bulk-import-job", "attributes": {"profiles": {"data": [profile]}}}}


def test_an_import_that_klaviyo_would_find_too_large_is_not_sent(run: FakeRunContext) -> None:
    with scripted_server(COMPLETE) as server:
        destination = klaviyo(server.url, max_body_bytes=1_000)
        with pytest.raises(BatchRefusedError) as refusal:
            destination.send(changes("ada", "bob", text="x" * 500), run)
        assert (refusal.value.http_status, refusal.value.code) == (413, "too_large")
        assert server.asked == []
        assert destination.send(changes("ada", text="x" * 500), run) == [DELIVERED]


def test_ten_thousand_users_of_ordinary_size_fit_into_one_import(crm: LocalCrm, run: FakeRunContext) -> None:
    attributes: dict[str, Any] = {
        "churn_probability": 0.8421,
        "churn_risk_band": "high",
        "churn_reasons": ["Left at the income step", "Long pause before leaving", "No document uploaded"],
        "churn_scored_at": "2026-06-15T10:00:00Z",
        "churn_model_version": "2026-06-01-a1b2c3",
        "voucher_eligible": True,
        "voucher_reason": "granted",
        "voucher_valid_until": "2026-06-22T10:00:00Z",
        "experiment_arm": "treatment",
    }
    batch = [Change(f"user-{n:06d}", dict(attributes)) for n in range(KlaviyoOptions().max_batch)]
    assert klaviyo(crm.url).send(batch, run) == [DELIVERED] * 10_000
    assert crm.store.profile("user-009999") == attributes
    assert crm.store.totals()["profiles"] == 10_000


def test_rows_that_klaviyo_refuses_are_rejected_and_the_others_land(crm: LocalCrm, run: FakeRunContext) -> None:
    ids = [f"user-{n}" for n in range(300)]
    fault(crm, kind="row_error", external_ids=ids[:250], endpoint="klaviyo.import")
    outcomes = klaviyo(crm.url).send(changes(*ids), run)
    assert outcomes == [rejected("The profile is not accepted.")] * 250 + [DELIVERED] * 50
    assert sorted(crm.store.profiles()) == sorted(ids[250:])
    assert crm.desk.by_endpoint["klaviyo.errors"] == {"200": 3}


def test_batches_under_way_at_the_same_time_are_not_mixed_up(crm: LocalCrm, run: FakeRunContext) -> None:
    destination = klaviyo(crm.url)
    batches = [[f"user-{batch}-{n}" for n in range(3)] for batch in range(6)]
    fault(crm, kind="row_error", external_ids=[ids[batch % 3] for batch, ids in enumerate(batches)])
    with ThreadPoolExecutor(destination.max_in_flight) as threads:
        sent = list(threads.map(lambda ids: destination.send(changes(*ids), run), batches))
    assert [[outcome.kind for outcome in outcomes].index("rejected") for outcomes in sent] == [0, 1, 2, 0, 1, 2]
    assert len(crm.store.profiles()) == 12


def test_an_import_whose_reply_was_lost_is_posted_again_to_the_same_effect(crm: LocalCrm, run: FakeRunContext) -> None:
    fault(crm, kind="lose_reply", endpoint="klaviyo.import")
    assert klaviyo(crm.url).send(changes("ada", score=0.5, until=None), run) == [DELIVERED]
    assert crm.store.profiles() == {"ada": {"score": 0.5}}
    assert crm.desk.by_endpoint["klaviyo.import"] == {"no reply": 1, "202": 1}
