"""The CRM vendors' published API specifications, against which tests hold what is sent and what the local CRM answers.

They are the vendors' and not part of this repository. They lie in the folder that VENDOR_SPECS names, by default ../shared/specs.
`python -m tests.support.vendor_specs FOLDER` fetches them. Salesforce publishes none.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

_SHARED = Path(__file__).parents[3] / "shared"
_RAW = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Specification:
    """A file, whose it is, and where it is published."""

    name: str
    vendor: str
    url: str


SPECIFICATIONS = (
    # Braze publishes none of its own; its users keep this one from its documentation.
    Specification(
        "braze_community.json", "Braze", f"{_RAW}/braze-community/braze-specification/HEAD/openapi/spec.json"
    ),
    Specification(
        "hubspot_contacts_v3.json",
        "HubSpot",
        f"{_RAW}/HubSpot/HubSpot-public-api-spec-collection/HEAD/PublicApiSpecs/CRM/Contacts/Rollouts/424/v3/contacts.json",
    ),
    # One file for every part of the API.
    Specification("klaviyo_profiles.json", "Klaviyo", f"{_RAW}/klaviyo/openapi/HEAD/openapi/stable.json"),
    Specification("klaviyo_data_privacy.json", "Klaviyo", f"{_RAW}/klaviyo/openapi/HEAD/openapi/stable.json"),
)


def folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the specifications lie, if they are there."""
    return Path(environment.get("VENDOR_SPECS") or _SHARED / "specs")


def missing(environment: Mapping[str, str] = os.environ) -> list[Specification]:
    """The specifications that are not there."""
    return [each for each in SPECIFICATIONS if not (folder(environment) / each.name).is_file()]


def must_be_there(environment: Mapping[str, str] = os.environ, shared: Path = _SHARED) -> bool:
    """Whether a missing file is a fault: in CI, where the shared folder is, and wherever VENDOR_SPECS promises them."""
    return bool(environment.get("VENDOR_SPECS")) or (environment.get("CI") == "true" and shared.is_dir())


def find(name: str, environment: Mapping[str, str] = os.environ, shared: Path = _SHARED) -> Path | None:
    """The file, or None where it may be missing; where it may not, the test fails."""
    path = folder(environment) / name
    if path.is_file():
        return path
    if must_be_there(environment, shared):
        pytest.fail(
            f"The vendor's specification {name} is missing. Fetch it: python -m tests.support.vendor_specs FOLDER"
        )
    return None


def find_or_skip(name: str) -> Path:
    """The file; the test is skipped where it may be missing."""
    path = find(name)
    if path is None:
        pytest.skip(f"the vendor's specification {name} is not part of this repository")
    return path


def not_checked(environment: Mapping[str, str] = os.environ) -> str | None:
    """The line that a run of the tests ends with where specifications are missing."""
    vendors = sorted({each.vendor for each in missing(environment)})
    if not vendors:
        return None
    return (
        f"Not checked against the published API specification: {', '.join(vendors)}. To check: "
        "python -m tests.support.vendor_specs FOLDER, then VENDOR_SPECS=FOLDER make test"
    )


def fetch(into: Path) -> None:
    """Download every specification; a file that is no OpenAPI document is an error."""
    into.mkdir(parents=True, exist_ok=True)
    for each in SPECIFICATIONS:
        with urllib.request.urlopen(each.url, timeout=60) as response:  # noqa: S310 - the addresses above, all https
            content = response.read()
        if "openapi" not in json.loads(content):
            sys.exit(f"{each.url} is no OpenAPI document.")
        (into / each.name).write_bytes(content)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
