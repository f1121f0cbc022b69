"""vouchers.yml: every valid file has one version; an invalid one is refused with its name and the field."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import ContractError
from scoring.policy import (
    load_policy,
)
from tests.support.builders.policy import EXPERIMENT, SALT, policy

FILE: dict[str, Any] = {
    "risk_bands": {"high": 0.65, "medium": 0.35},
    "voucher": {
        "probability_range": [0.45, 0.9],
        "valid_days": 7,
        "cool_down_days": 60,
        "budget_per_run": 200,
        "budget_per_day": 1000,
        "ranking": "highest_probability",
    },
    "experiment": {"holdout_ratio": 0.1, "salt": SALT},
}


def written(tmp_path: Path, section: str, **changes: Any) -> Path:
    path = tmp_path / "vouchers.yml"
    path.write_text(yaml.safe_dump(FILE | {section: {**FILE[section], **changes}}))
    return path


@pytest.mark.parametrize("folder", ["config", "examples/loan_applications"])
def test_the_files_that_ship_are_policies(folder: str) -> None:
    shipped = load_policy(Path(__file__).parents[2] / folder / "vouchers.yml")
    assert 0 < shipped.experiment.holdout_ratio < 1


def test_every_change_of_the_policy_changes_its_version_and_nothing_else_does(tmp_path: Path) -> None:
    same = load_policy(written(tmp_path, "voucher"))
    other = load_policy(written(tmp_path, "voucher", budget_per_run=201))
    assert same.version == policy(EXPERIMENT).version != other.version
    assert len(same.version) == 12


@pytest.mark.parametrize(
    ("section", "changes", "named"),
    [
        ("voucher", {"probability_range": [0.9, 0.45]}, "voucher.probability_range"),
        ("voucher", {"probability_range": [0.45, 1.1]}, "voucher.probability_range"),
        ("voucher", {"probability_range": [0.45]}, "voucher.probability_range"),
        ("voucher", {"probability_range": [float("nan"), 0.9]}, "voucher.probability_range"),
        ("voucher", {"valid_days": 0}, "voucher.valid_days"),
        ("voucher", {"cool_down_days": -1}, "voucher.cool_down_days"),
        ("voucher", {"budget_per_run": -1}, "voucher.budget_per_run"),
        ("voucher", {"budget_per_day": 1.5}, "voucher.budget_per_day"),
        ("voucher", {"ranking": "loudest"}, "voucher.ranking"),
        ("voucher", {"budgt_per_run": 5}, "voucher.budgt_per_run"),
        ("risk_bands", {"medium": 0.65}, "risk_bands"),
        ("risk_bands", {"medium": 0.7}, "medium must be below high"),
        ("experiment", {"holdout_ratio": 1.01}, "experiment.holdout_ratio"),
        ("experiment", {"salt": ""}, "experiment.salt"),
        ("experiment", {"salt": "s" * 201}, "experiment.salt"),
        ("voucher", {"budget_per_run": 1_001}, "budget_per_run (1001) is above budget_per_day (1000)"),
        ("voucher", {"budget_per_day": 0}, "budget_per_run (200) is above budget_per_day (0)"),
        ("voucher", {"budget_per_run": 10**18, "budget_per_day": 10**18}, "voucher.budget_per_day"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_the_field(
    tmp_path: Path, section: str, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ContractError) as refusal:
        load_policy(written(tmp_path, section, **changes))
    assert "vouchers.yml" in str(refusal.value)
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    "changes", [{"budget_per_run": 0}, {"budget_per_run": 1_000}, {"budget_per_run": 0, "budget_per_day": 0}]
)
def test_a_run_may_grant_as_many_as_a_day_and_nobody_may_be_granted_any(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert load_policy(written(tmp_path, "voucher", **changes)).voucher.model_dump().items() >= changes.items()


@pytest.mark.parametrize("content", [b"", b"[]", b"risk_bands: [", b"salt: \xe4"])
def test_a_file_that_is_no_policy_at_all_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vouchers.yml"
    path.write_bytes(content)
    with pytest.raises(ContractError, match=r"vouchers\.yml is not a valid voucher policy file"):
        load_policy(path)


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"vouchers\.yml"):
        load_policy(tmp_path / "vouchers.yml")
