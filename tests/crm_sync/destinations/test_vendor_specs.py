"""Vendor specifications: missing ones are reported, and fail where they are required."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.vendor_specs import SPECIFICATIONS, find, not_checked


def test_without_the_specifications_one_line_says_what_was_not_checked(tmp_path: Path) -> None:
    (tmp_path / "braze_community.json").write_text("{}")
    assert not_checked({"VENDOR_SPECS": str(tmp_path)}) == (
        "Not checked against the published API specification: HubSpot, Klaviyo. To check: "
        "python -m tests.support.vendor_specs FOLDER, then VENDOR_SPECS=FOLDER make test"
    )
    for each in SPECIFICATIONS:
        (tmp_path / each.name).write_text("{}")
    assert not_checked({"VENDOR_SPECS": str(tmp_path)}) is None


@pytest.mark.parametrize(
    ("environment", "has_shared", "fails"),
    [
        ({}, False, False),
        ({}, True, False),
        ({"CI": "true"}, False, False),
        ({"CI": "false"}, True, False),
        ({"CI": "true"}, True, True),
        ({"VENDOR_SPECS": "nowhere"}, False, True),
    ],
)
def test_a_missing_file_fails_in_ci_beside_the_shared_folder_and_where_it_was_promised(
    tmp_path: Path, environment: dict[str, str], has_shared: bool, fails: bool
) -> None:
    if has_shared:
        (tmp_path / "shared").mkdir()
    name = "no_such_vendor.json"
    if fails:
        with pytest.raises(pytest.fail.Exception, match=name):
            find(name, environment, tmp_path / "shared")
    else:
        assert find(name, environment, tmp_path / "shared") is None


def test_every_specification_has_one_place_and_comes_over_https() -> None:
    assert len({each.name for each in SPECIFICATIONS}) == len(SPECIFICATIONS)
    assert all(each.url.startswith("https://") for each in SPECIFICATIONS)
