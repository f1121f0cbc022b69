"""Connecting: the key goes only to allowed hosts, property names are checked, and the limits of `crm.yml` apply."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import ContractError
from crm_sync.destinations.adapter import Limit
from crm_sync.destinations.braze import ADAPTER, Braze, BrazeOptions
from crm_sync.destinations.factory import ADAPTERS, check_host, check_names, connect, load_options
from crm_sync.destinations.http.rate_limiter import RateLimit
from crm_sync.destinations.http.transport import RetryBudget
from crm_sync.field_mapping import FieldMapping
from tests.support.sync.builders import MAPPING
from warehouse.tables import CRM_STATE

SHIPPED = Path(__file__).parents[3] / "config/crm.yml"


def mapping(property_of_arm: str) -> FieldMapping:
    fields = {name: {"property": f"p_{name}"} for name in CRM_STATE} | {"experiment_arm": {"property": property_of_arm}}
    return FieldMapping.model_validate({"churn_probability_step": 0.05, "fields": fields})


# Hosts


@pytest.mark.parametrize(
    "url",
    [
        "https://rest.fra-01.braze.eu",
        "https://rest.iad-01.braze.com/",
        "https://REST.FRA-01.BRAZE.EU",
        "https://rest.fra-01.braze.eu:443",
        "http://127.0.0.1:8765",
        "http://localhost:8765",
        "http://[::1]:8765",
    ],
)
def test_the_key_goes_to_the_crm_s_own_hosts_and_to_this_machine(url: str) -> None:
    check_host(ADAPTER, url, ())


@pytest.mark.parametrize(
    "url",
    [
        "https://rest.example",
        "https://braze.eu.example",
        "https://evilbraze.eu",
        "https://braze.eu",
        "https://rest.braze.eu@rest.example",
        "https://rest.example/rest.braze.eu",
        "https://rest.example?rest.braze.eu",
        "https://rest.example#.braze.eu",
        "https://127.0.0.1.example",
        "https://10.0.0.1",
        "https://rest.braze.eu.",
        # One URL parser reads this as name and password, another as the host.
        "https://rest.example\\@rest.braze.eu",
        "https://rest.example\\.braze.eu",
        "https://rest.example;.braze.eu",
        "https://rest.example,.braze.eu",
        "https://rest.example%00.braze.eu",
        "https://rest.example\u3002.braze.eu",
        "https://rest.braze.eu/../rest.example",
        "https://rest.braze.eu:0",
        "https://user@rest.braze.eu",
        "",
    ],
)
def test_the_key_goes_nowhere_else_and_the_error_does_not_name_where(url: str) -> None:
    with pytest.raises(ContractError) as refusal:
        check_host(ADAPTER, url, ())
    assert str(refusal.value) == (
        "The host in WINBACK_CRM_URL does not belong to braze (.braze.com, .braze.eu), and the key would be sent to it. "
        "Correct the URL, or allow the host: WINBACK_CRM_HOSTS"
    )


@pytest.mark.parametrize(
    ("allowed_hosts", "is_allowed"),
    [
        (("proxy.example",), True),
        (("other.example", "proxy.example"), True),
        ((".example",), True),
        (("example",), False),
        (("my-proxy.example",), False),
    ],
)
def test_further_hosts_may_be_allowed(allowed_hosts: tuple[str, ...], is_allowed: bool) -> None:
    if is_allowed:
        check_host(ADAPTER, "https://proxy.example", allowed_hosts)
    else:
        with pytest.raises(ContractError):
            check_host(ADAPTER, "https://proxy.example", allowed_hosts)


# Property names


@pytest.mark.parametrize("name", ["arm", "Arm_2026", "a" * 100])
def test_names_that_braze_can_have_are_let_pass(name: str) -> None:
    check_names(ADAPTER, mapping(name))


def test_a_name_that_the_crm_cannot_have_is_refused_with_the_name_and_the_pattern() -> None:
    class Strict:
        name, property_pattern = "strict", re.compile(r"[a-z_]{1,40}")

    with pytest.raises(ContractError) as refusal:
        check_names(Strict, mapping("Arm"))  # type: ignore[arg-type]
    assert str(refusal.value) == (
        "crm_fields.yml: strict cannot have a property with the name Arm; names must match [a-z_]{1,40}"
    )


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_every_crm_has_documented_limits_hosts_and_permissions(name: str) -> None:
    adapter = ADAPTERS[name]
    options = adapter.options.model_validate({})
    assert adapter.name == name
    assert adapter.hosts
    assert adapter.permissions
    assert all(host.strip(".").count(".") >= 1 for host in adapter.hosts)
    assert options.max_batch >= 1


# crm.yml


def options(folder: Path, content: Any) -> Any:
    path = folder / "crm.yml"
    path.write_text(yaml.safe_dump(content))
    return load_options(path)


def test_without_a_file_everything_is_as_documented(tmp_path: Path) -> None:
    braze = load_options(tmp_path / "crm.yml").braze  # type: ignore[attr-defined]
    assert braze == BrazeOptions(max_batch=75, max_in_flight=8, limits=(Limit(requests=3_000, seconds=3),))
    assert braze.rate_limits == [RateLimit(3_000, 3)]


def test_the_file_that_ships_says_what_is_documented() -> None:
    shipped = load_options(SHIPPED).braze  # type: ignore[attr-defined]
    assert shipped == BrazeOptions()


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"max_batch": 50}, BrazeOptions(max_batch=50)),
        ({"limits": []}, BrazeOptions(limits=())),
        (
            {"limits": [{"requests": 10, "seconds": 1}, {"requests": 100, "seconds": 60}]},
            BrazeOptions(limits=(Limit(requests=10, seconds=1), Limit(requests=100, seconds=60))),
        ),
        ({}, BrazeOptions()),
    ],
)
def test_what_is_left_out_of_the_file_is_as_documented(
    tmp_path: Path, section: dict[str, Any], expected: BrazeOptions
) -> None:
    assert options(tmp_path, {"braze": section}).braze == expected


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"braze": {"max_batch": 0}}, "braze.max_batch"),
        ({"braze": {"max_in_flight": 0}}, "braze.max_in_flight"),
        ({"braze": {"max_in_flight": 257}}, "braze.max_in_flight"),
        ({"braze": {"limits": [{"requests": 0, "seconds": 1}]}}, "braze.limits.0.requests"),
        ({"braze": {"limits": [{"requests": 1, "seconds": 0}]}}, "braze.limits.0.seconds"),
        ({"braze": {"limits": [{"requests": 1}]}}, "braze.limits.0.seconds"),
        ({"braze": {"max_bach": 1}}, "braze.max_bach"),
        ({"brase": {}}, "brase"),
        ({"braze": None}, "braze"),
        ([], "crm.yml"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_key(tmp_path: Path, content: Any, named: str) -> None:
    with pytest.raises(ContractError) as refusal:
        options(tmp_path, content)
    assert "crm.yml is not a valid CRM options file" in str(refusal.value)
    assert named in str(refusal.value)


def test_connecting_gives_the_crm_with_its_options(tmp_path: Path) -> None:
    chosen = options(tmp_path, {"braze": {"max_batch": 20, "max_in_flight": 3}})
    url = "https://rest.fra-01.braze.eu"
    crm = connect("braze", url, "key", chosen, MAPPING, allowed_hosts=(), budget=RetryBudget())
    assert isinstance(crm, Braze)
    assert (crm.max_batch, crm.max_in_flight) == (20, 3)
    crm.close()


@pytest.mark.parametrize(("url", "name"), [("https://rest.example", "arm"), ("http://127.0.0.1", "x" * 101)])
def test_nothing_is_connected_to_a_strange_host_or_with_names_the_crm_cannot_have(
    tmp_path: Path, url: str, name: str
) -> None:
    fields = mapping("arm").model_copy(deep=True)
    object.__setattr__(fields.fields["experiment_arm"], "property", name)
    with pytest.raises(ContractError):
        connect(
            "braze", url, "key", load_options(tmp_path / "none.yml"), fields, allowed_hosts=(), budget=RetryBudget()
        )
