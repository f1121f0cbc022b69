"""Login of `winback doctor` on BigQuery: the account that it uses, and its permissions in the project."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google.auth
import pytest
from google.auth import compute_engine, impersonated_credentials
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError
from google.oauth2 import credentials as oauth2
from google.oauth2 import service_account

from jobs.doctor.run import doctor
from tests.support.builders.doctor import named
from tests.support.environment import settings_in
from warehouse.bigquery.doctor import login_of, project_permissions
from warehouse.bigquery.facts import Login, Refusal


def made(kind: Any, **attributes: Any) -> Any:
    """Make credentials of a class, without the key or token that the constructor requires."""
    credentials = object.__new__(kind)
    credentials.__dict__.update(attributes)
    return credentials


@pytest.mark.parametrize(
    ("credentials", "login"),
    [
        (AnonymousCredentials(), Login("none")),
        (made(service_account.Credentials, _service_account_email="job@shop"), Login("key", "job@shop")),
        (made(compute_engine.Credentials, _service_account_email="job@shop"), Login("attached", "job@shop")),
        (made(compute_engine.Credentials, _service_account_email="default"), Login("attached")),
        (made(impersonated_credentials.Credentials, _target_principal="job@shop"), Login("impersonated", "job@shop")),
        (oauth2.Credentials("token", account="somebody@example.com"), Login("person")),
    ],
)
def test_credentials_are_told_by_their_kind_and_a_person_is_not_named(credentials: Any, login: Login) -> None:
    assert login_of(credentials) == login


def test_without_credentials_nothing_else_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise DefaultCredentialsError("File /home/someone/key.json was not found")

    monkeypatch.setattr(google.auth, "default", none)
    found = doctor(settings_in(tmp_path, warehouse="bigquery://shop/winback")).findings

    assert named(found, "credentials").says == "No Google credentials were found"
    assert {one.state for one in found if one.check in ("queries", "datasets", "tables", "history")} == {"skipped"}


class Answering:
    """Replaces the Resource Manager, which the emulator lacks."""

    def __init__(self, status: int) -> None:
        self.status = status

    def __call__(self, _: Any) -> Any:
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def post(self, url: str, json: dict[str, list[str]], timeout: float) -> Any:
        assert (url.rpartition("/")[2], timeout) == ("shop:testIamPermissions", 1)
        return SimpleNamespace(ok=self.status == 200, json=lambda: {"permissions": json["permissions"][:1]})


@pytest.mark.parametrize(
    ("status", "answer"), [(200, frozenset({"bigquery.jobs.create"})), (403, Refusal("unasked", ""))]
)
def test_the_project_is_asked_through_the_resource_manager_where_it_answers(
    monkeypatch: pytest.MonkeyPatch, status: int, answer: object
) -> None:
    monkeypatch.setattr("warehouse.bigquery.doctor.AuthorizedSession", Answering(status))

    assert project_permissions(AnonymousCredentials(), "shop", 1) == answer
