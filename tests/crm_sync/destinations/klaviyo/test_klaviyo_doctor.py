"""Doctor for Klaviyo: what it finds without writing anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.local_crm.server import LocalCrm
from tests.support.crm.klaviyo import described_crm, klaviyo
from tests.support.crm.local_api import FakeRunContext


@pytest.fixture
def run() -> FakeRunContext:
    return FakeRunContext()


@pytest.fixture
def crm(tmp_path: Path, run: FakeRunContext) -> Iterator[LocalCrm]:
    with described_crm(tmp_path, run) as server:
        yield server


def test_a_key_that_may_is_told_apart_from_one_that_may_not_and_nothing_is_written(
    crm: LocalCrm, run: FakeRunContext
) -> None:
    may, properties = klaviyo(crm.url).examine({"score": "number", "band": "text"}, run)
    assert (may.state, properties.state) == ("ok", "ok")
    assert properties.says == "Klaviyo will create 2 properties with the first delivery: score, band"
    may_not, _ = klaviyo(crm.url, key="another").examine({"score": "number"}, run)
    assert may_not.state == "failed"
    for scope in ("profiles:read", "profiles:write", "lists:read", "lists:write", "data-privacy:write"):
        assert scope in may_not.do[0]
    assert crm.desk.by_endpoint == {"klaviyo.jobs": {"200": 1, "401": 1}}
