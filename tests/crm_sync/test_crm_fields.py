"""Field mapping: `crm_fields.yml` is refused if it is incomplete or maps a field to a forbidden property."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import ContractError
from crm_sync.field_mapping import IDENTIFIERS, KINDS, SUBSCRIPTIONS, load_fields
from warehouse.tables import CRM_STATE, TIMESTAMP

SHIPPED = Path(__file__).parents[2] / "config/crm_fields.yml"

FILE: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())


def with_fields(**changes: Any) -> dict[str, Any]:
    """The shipped file with some fields replaced; None removes a field."""
    fields = {name: value for name, value in (FILE["fields"] | changes).items() if value is not None}
    return FILE | {"fields": fields}


def write(folder: Path, content: Any) -> Path:
    path = folder / "crm_fields.yml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_fields_may_have_other_names_in_the_crm(tmp_path: Path) -> None:
    renamed = load_fields(write(tmp_path, with_fields(experiment_arm={"property": "Arm_2026", "clearable": True})))
    assert (renamed.fields["experiment_arm"].property, renamed.fields["experiment_arm"].clearable) == ("Arm_2026", True)
    assert renamed.kinds["Arm_2026"] == "text"


def test_every_field_of_the_state_has_a_kind_that_fits_its_type() -> None:
    fitting = {"number": "double", "text": "string", "texts": "string", "flag": "bool", "time": str(TIMESTAMP)}
    assert {name: fitting[KINDS[name]] for name in CRM_STATE} == {name: str(kind) for name, kind in CRM_STATE.items()}


def test_the_file_that_ships_says_what_each_property_must_hold() -> None:
    assert load_fields(SHIPPED).kinds == {
        "churn_probability": "number",
        "churn_risk_band": "text",
        "churn_reasons": "texts",
        "churn_scored_at": "time",
        "churn_model_version": "text",
        "voucher_eligible": "flag",
        "voucher_reason": "text",
        "voucher_valid_until": "time",
        "experiment_arm": "text",
    }


@pytest.mark.parametrize(("said", "tell_holdout"), [({}, True), ({"tell_holdout": False}, False)])
def test_the_holdout_is_told_unless_the_file_says_otherwise(
    tmp_path: Path, said: dict[str, bool], tell_holdout: bool
) -> None:
    content = {name: value for name, value in FILE.items() if name != "tell_holdout"} | said
    assert load_fields(write(tmp_path, content)).tell_holdout is tell_holdout


@pytest.mark.parametrize("change_case", [str.lower, str.upper, str.title])
@pytest.mark.parametrize("name", sorted(IDENTIFIERS | SUBSCRIPTIONS))
def test_no_field_is_written_to_an_identifier_or_a_subscription_however_it_is_spelt(
    tmp_path: Path, name: str, change_case: Any
) -> None:
    content = with_fields(experiment_arm={"property": change_case(name)})
    with pytest.raises(ContractError, match=rf"a field is written to a property .*\['{name}'\]"):
        load_fields(write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (with_fields(experiment_arm=None), "missing fields: ['experiment_arm']"),
        (with_fields(income={"property": "income"}), "unknown fields: ['income']"),
        (with_fields(experiment_arm={"property": "voucher_reason"}), "two fields are written to the same property"),
        (with_fields(experiment_arm={"property": "Voucher_Reason"}), "two fields are written to the same property"),
        (with_fields(experiment_arm={"property": "with space"}), "fields.experiment_arm.property"),
        (with_fields(experiment_arm={"property": "_update_existing_only"}), "fields.experiment_arm.property"),
        (with_fields(experiment_arm={"property": ""}), "fields.experiment_arm.property"),
        (with_fields(experiment_arm={"property": "arm", "clearble": True}), "fields.experiment_arm.clearble"),
        (with_fields(experiment_arm={"clearable": True}), "fields.experiment_arm.property"),
        (with_fields(experiment_arm="arm"), "fields.experiment_arm"),
        (FILE | {"tell_holdout": "sometimes"}, "tell_holdout"),
        (FILE | {"churn_probability_step": 1.5}, "churn_probability_step"),
        (FILE | {"churn_probability_step": -0.1}, "churn_probability_step"),
        ({"fields": FILE["fields"]}, "churn_probability_step"),
        (FILE | {"field": {}}, "field"),
        ([], "crm_fields.yml"),
    ],
)
def test_a_wrong_mapping_is_refused_with_its_file_and_the_field(tmp_path: Path, content: Any, named: str) -> None:
    path = tmp_path / "crm_fields.yml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ContractError) as refusal:
        load_fields(path)
    assert "crm_fields.yml is not a valid field mapping file" in str(refusal.value)
    assert named in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"fields: {", b"fields: \xe4"])
def test_a_file_that_cannot_be_read_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "crm_fields.yml"
    path.write_bytes(content)
    with pytest.raises(ContractError, match=r"crm_fields\.yml is not a valid field mapping file"):
        load_fields(path)


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"crm_fields\.yml"):
        load_fields(tmp_path / "crm_fields.yml")
