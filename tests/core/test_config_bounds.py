"""Bounds of config/: an absurd number, version or name is refused with its file, line and fix."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from core.errors import ContractError
from crm_sync.destinations.factory import load_options
from crm_sync.field_mapping import load_fields
from jobs.transform.funnel import load_funnel
from scoring.policy import load_policy
from training.config import TrainingRules, check_trusted, load_training
from training.entrypoints import train
from training.leakage.screen import LeakRules

REFUSED: list[tuple[str, Callable[[Path], Any], str, str]] = [
    # More than a CRM accepts at once: every request would be refused, and each refusal halves the batch, down to single users.
    (
        "crm.yml",
        load_options,
        f"braze: {{limits: [{', '.join(['{requests: 1, seconds: 1}'] * 11)}]}}",
        "braze.limits: has more than 10 entries. Correct it.",
    ),
    ("crm.yml", load_options, "braze: {max_batch: 76}", "braze.max_batch: must be 75 or less. Correct it."),
    ("crm.yml", load_options, "hubspot: {max_batch: 101}", "hubspot.max_batch: must be 100 or less. Correct it."),
    ("crm.yml", load_options, "klaviyo: {max_batch: 10001}", "klaviyo.max_batch: must be 10000 or less. Correct it."),
    (
        "crm.yml",
        load_options,
        "klaviyo: {max_body_bytes: 5000001}",
        "klaviyo.max_body_bytes: must be 5000000 or less. Correct it.",
    ),
    (
        "crm.yml",
        load_options,
        "klaviyo: {max_body_bytes: 1}",
        "klaviyo.max_body_bytes: must be 1000 or more. Correct it.",
    ),
    (
        "crm.yml",
        load_options,
        "salesforce: {max_batch: 100001}",
        "salesforce.max_batch: must be 100000 or less. Correct it.",
    ),
    *(
        (
            "crm.yml",
            load_options,
            f"klaviyo: {{revision: '{revision}'}}",
            "klaviyo.revision: must be a date of Klaviyo's revisions, for instance 2026-07-15, in quotes. Correct it.",
        )
        for revision in (
            "2026-13-45",
            "2026-02-30",
            "2026-7-15",
            "20260715",
            "2026-07-15.",
            "2026-07-15.pre.x",
            "latest",
            "",
        )
    ),
    *(
        (
            "crm.yml",
            load_options,
            f"salesforce: {{api_version: '{version}'}}",
            "salesforce.api_version: must be a version of the API from v41.0 on, for instance v62.0. Correct it.",
        )
        for version in ("v40.0", "v00.0", "v062.0", "v999.0", "62.0", "v62", "v62.1", "latest")
    ),
    (
        "crm.yml",
        load_options,
        "klaviyo: {first_poll_seconds: 16}",
        "klaviyo.first_poll_seconds: must not be above max_poll_seconds. Correct one of them.",
    ),
    (
        "crm.yml",
        load_options,
        "salesforce: {first_poll_seconds: 31}",
        "salesforce.first_poll_seconds: must not be above longest_poll_seconds. Correct one of them.",
    ),
    (
        "training.yml",
        load_training,
        f"min_level_users: {10**17}",
        "min_level_users: must be 1000000 or less. Correct it.",
    ),
    (
        "training.yml",
        load_training,
        "judged_users_ratio: 0.0001",
        "judged_users_ratio: must be 0.01 or more. Correct it.",
    ),
    (
        "training.yml",
        load_training,
        "judged_users_ratio: 0.9999",
        "judged_users_ratio: must be 0.99 or less. Correct it.",
    ),
]


@pytest.mark.parametrize(("name", "load", "content", "sentence"), REFUSED)
def test_what_nobody_can_mean_is_refused_with_its_line(
    tmp_path: Path, name: str, load: Callable[[Path], Any], content: str, sentence: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ContractError) as refusal:
        load(tmp_path / name)
    first, line, *_ = str(refusal.value).splitlines()
    assert first.startswith(f"{name} is not a valid ")
    assert line.startswith("  line ")
    assert line.endswith(sentence)


@pytest.mark.parametrize("revision", ["2024-10-15", "2026-10-15.pre"])
def test_every_revision_that_klaviyo_could_have_is_taken(tmp_path: Path, revision: str) -> None:
    (tmp_path / "crm.yml").write_text(f"klaviyo: {{revision: '{revision}'}}")
    options: Any = load_options(tmp_path / "crm.yml")
    assert options.klaviyo.revision == revision


# Every number in the shipped files, and those added later

CONFIG = Path(__file__).parents[2] / "config"
# features.yml has none beside the ranges, which are themselves bounds.
LOADERS: dict[str, Callable[[Path], Any]] = {
    "funnel.yml": load_funnel,
    "vouchers.yml": load_policy,
    "crm_fields.yml": load_fields,
    "crm.yml": load_options,
    "training.yml": load_training,
}


def numbers(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the places of a document's numbers."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from numbers(each, (*place, key))
    if type(value) in (int, float):
        yield place


@pytest.mark.parametrize("name", LOADERS)
def test_every_number_has_bounds_on_either_side(tmp_path: Path, name: str) -> None:
    shipped = yaml.safe_load((CONFIG / name).read_text())
    taken = []
    for *way, key in numbers(shipped):
        for number in (10**17, -(10**17), 1e300, -1e300):
            changed = copy.deepcopy(shipped)
            reduce(getitem, way, changed)[key] = number
            (tmp_path / name).write_text(yaml.safe_dump(changed))
            try:
                LOADERS[name](tmp_path / name)
            except ContractError:
                continue
            taken.append((*way, key, number))
    assert list(numbers(shipped))
    assert taken == []


# Names that do not exist


@pytest.mark.parametrize(
    ("trusted", "named"),
    [
        (("nope",), "names nope, but features.yml has no such feature. Correct or remove it."),
        (("age", "nope", "x"), "names nope, x, but features.yml has no such feature. Correct or remove it."),
        (
            ("incomee",),
            "names incomee, but features.yml has no such feature. Did you mean income? Correct or remove it.",
        ),
    ],
)
def test_a_trusted_feature_that_is_none_is_refused_before_anything_is_learned(
    trusted: tuple[str, ...], named: str
) -> None:
    with pytest.raises(ContractError) as refusal:
        check_trusted(TrainingRules(leaks=LeakRules(trusted=trusted)), ["age", "income"])
    assert str(refusal.value) == f"training.yml: leaks.trusted {named}"


def test_trusted_features_of_the_contract_are_taken() -> None:
    check_trusted(TrainingRules(leaks=LeakRules(trusted=("age", "income"))), ["income", "age", "steps"])


def test_training_begins_by_looking_at_the_names(tmp_path: Path) -> None:
    (tmp_path / "features.yml").write_text("features:\n  - {name: age, type: number, range: [0, 130]}")
    (tmp_path / "training.yml").write_text("leaks: {trusted: [nope]}")
    at = datetime(2026, 11, 23, tzinfo=UTC)
    with pytest.raises(ContractError, match=r"leaks\.trusted names nope"):
        train(
            pa.table({}),
            tmp_path,
            tmp_path / "models",
            trained_at=at,
            until=at,
            label_window_days=14,
            last=None,
            threads=1,
            advance=lambda _: None,
        )
    assert not (tmp_path / "models").exists()
