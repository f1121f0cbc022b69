"""The example in docs/how-to/add-a-destination.md: a CRM that takes an array and replies with {id, ok, error} for each row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from core.errors import ContractError
from crm_sync.destination import BatchRefusedError, Finding, Outcome, UnavailableError
from crm_sync.destinations.adapter import Adapter
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.diff import Change
from tests.support.crm.local_api import Canned, FakeRunContext, Script, scripted_server

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "add-a-destination.md"
UNCONFIRMED = Outcome("deferred", 200, "unconfirmed")
DELIVERED = Outcome("delivered", 200)
BATCH = [
    Change("anna", {"churn_probability": 0.5, "churn_reasons": ["long visits"], "voucher_valid_until": None}),
    Change("bert@example.org", {"voucher_eligible": True}),
]


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The page's block of Python as a module."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    file = tmp_path_factory.mktemp("post") / "post.py"
    file.write_text(code)
    spec = spec_from_file_location("post", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sent(post: ModuleType, script: Script, batch: Sequence[Change] = BATCH) -> list[Outcome]:
    destination = post.Post(script.url, "a-key", budget=RetryBudget(20))
    try:
        outcomes: list[Outcome] = destination.send(batch, FakeRunContext())
    finally:
        destination.close()
    return outcomes


def test_a_batch_goes_as_one_array_with_only_ids_and_changed_properties(post: ModuleType) -> None:
    with scripted_server(Canned(200, [{"id": "anna", "ok": True}, {"id": "bert@example.org", "ok": True}])) as script:
        assert sent(post, script) == [DELIVERED, DELIVERED]
    (asked,) = script.asked
    assert (asked.method, asked.path, asked.headers["authorization"]) == ("POST", "/people", "Bearer a-key")
    assert asked.body == [
        {"id": "anna", "churn_probability": 0.5, "churn_reasons": ["long visits"], "voucher_valid_until": None},
        {"id": "bert@example.org", "voucher_eligible": True},
    ]


@pytest.mark.parametrize(
    ("answer", "outcomes"),
    [
        ([{"id": "anna", "ok": True}], [DELIVERED, UNCONFIRMED]),
        ([], [UNCONFIRMED, UNCONFIRMED]),
        ([{"id": "carl", "ok": True}, "anna", {"ok": True}], [UNCONFIRMED, UNCONFIRMED]),
        ([{"id": "anna", "ok": "yes"}, {"id": "bert@example.org", "ok": 1}], [UNCONFIRMED, UNCONFIRMED]),
        (
            [
                {"id": "bert@example.org", "ok": False, "error": "bert@example.org is blocked"},
                {"id": "anna", "ok": True},
            ],
            [DELIVERED, Outcome("rejected", 200, "is_blocked", "... is blocked")],
        ),
        (
            [
                {"id": "anna", "ok": True},
                {"id": "anna", "ok": False, "error": "Unknown field"},
                {"id": "anna", "ok": True},
            ],
            [Outcome("rejected", 200, "unknown_field", "Unknown field"), UNCONFIRMED],
        ),
    ],
)
def test_a_row_is_delivered_only_when_its_own_answer_says_so(
    post: ModuleType, answer: list[Any], outcomes: list[Outcome]
) -> None:
    with scripted_server(Canned(200, answer)) as script:
        assert sent(post, script) == outcomes


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (Canned(200, {"accepted": 2}), UnavailableError),
        (Canned(200, b"thank you"), UnavailableError),
        (Canned(503), UnavailableError),
        (Canned(422, {"message": "no"}), BatchRefusedError),
        (Canned(401), ContractError),
    ],
)
def test_what_it_does_not_understand_is_no_success(post: ModuleType, said: Canned, error: type[Exception]) -> None:
    with scripted_server(said) as script, pytest.raises(error):
        sent(post, script)


def test_it_waits_as_long_as_it_is_asked_to(post: ModuleType) -> None:
    run = FakeRunContext()
    with scripted_server(
        Canned(429, headers={"Retry-After": "7"}), Canned(200, [{"id": "anna", "ok": True}])
    ) as script:
        destination = post.Post(script.url, "a-key")
        assert destination.send(BATCH[:1], run) == [DELIVERED]
        destination.close()
    assert sum(run.waits) == 7


@pytest.mark.parametrize(
    ("said", "outcomes"),
    [
        (Canned(200, [{"id": "anna", "ok": True}]), [DELIVERED]),
        (
            Canned(200, [{"id": "anna", "ok": False, "error": "Unknown person"}]),
            [Outcome("delivered", 200, "not_found")],
        ),
        (Canned(409), [Outcome("rejected", 409, "http_409")]),
    ],
)
def test_a_user_is_erased_or_was_not_there(post: ModuleType, said: Canned, outcomes: list[Outcome]) -> None:
    with scripted_server(said) as script:
        destination = post.Post(script.url, "a-key")
        assert destination.erase(["anna"], FakeRunContext()) == outcomes
        destination.close()
    assert (script.asked[0].path, script.asked[0].body) == ("/people/delete", ["anna"])


@pytest.mark.parametrize(
    ("fields", "findings"),
    [
        (["voucher_reason", "churn_probability"], [Finding("ok", "Post has all 2 fields")]),
        (
            ["voucher_reason"],
            [Finding("failed", "Post lacks the fields churn_probability", ("In Post, make them.",))],
        ),
        ({"count": 2}, [Finding("skipped", "Post listed its fields in an unknown shape")]),
    ],
)
def test_doctor_is_told_which_fields_are_missing(post: ModuleType, fields: Any, findings: list[Finding]) -> None:
    with scripted_server(Canned(200, fields)) as script:
        destination = post.Post(script.url, "a-key")
        assert (
            destination.examine({"churn_probability": "number", "voucher_reason": "text"}, FakeRunContext()) == findings
        )
        destination.close()


def test_its_adapter_has_a_default_for_every_option(post: ModuleType) -> None:
    adapter = post.ADAPTER
    assert isinstance(adapter, Adapter)
    assert adapter.options.model_validate({}).max_batch == 500
    assert adapter.property_pattern.fullmatch("voucher_reason")
