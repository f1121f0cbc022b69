"""The CRM vendors' published API specifications, which tests compare with our requests and the local CRM's replies.

They belong to the vendors and are not part of this repository. They are in the folder that VENDOR_SPECS names, by default
../shared/specs. `python -m tests.support.vendor_specs FOLDER` downloads them. Salesforce publishes none.
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
    """A file, its vendor, and the address where it is published."""

    name: str
    vendor: str
    url: str


SPECIFICATIONS = (
    # Braze publishes none; its users maintain this one from its documentation.
    Specification(
        "braze_community.json", "Braze", f"{_RAW}/braze-community/braze-specification/HEAD/openapi/spec.json"
    ),
    Specification(
        "hubspot_contacts_v3.json",
        "HubSpot",
        f"{_RAW}/HubSpot/HubSpot-public-api-spec-collection/HEAD/PublicApiSpecs/CRM/Contacts/Rollouts/424/v3/contacts.json",
    ),
    # One file for all parts of the API.
    Specification("klaviyo_profiles.json", "Klaviyo", f"{_RAW}/klaviyo/openapi/HEAD/openapi/stable.json"),
    Specification("klaviyo_data_privacy.json", "Klaviyo", f"{_RAW}/klaviyo/openapi/HEAD/openapi/stable.json"),
)


def folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the specifications."""
    return Path(environment.get("VENDOR_SPECS") or _SHARED / "specs")


def missing(environment: Mapping[str, str] = os.environ) -> list[Specification]:
    """Return the specifications that are absent."""
    return [each for each in SPECIFICATIONS if not (folder(environment) / each.name).is_file()]


def must_be_there(environment: Mapping[str, str] = os.environ, shared: Path = _SHARED) -> bool:
    """Whether a missing file is an error: in CI with the shared folder, or if VENDOR_SPECS is set."""
    return bool(environment.get("VENDOR_SPECS")) or (environment.get("CI") == "true" and shared.is_dir())


def find(name: str, environment: Mapping[str, str] = os.environ, shared: Path = _SHARED) -> Path | None:
    """Return the file, or None if it may be missing; otherwise the test fails."""
    path = folder(environment) / name
    if path.is_file():
        return path
    if must_be_there(environment, shared):
        pytest.fail(
            f"The vendor's specification {name} is missing. Fetch it: python -m tests.support.vendor_specs FOLDER"
        )
    return None


def find_or_skip(name: str) -> Path:
    """Return the file, or skip the test if the file may be missing."""
    path = find(name)
    if path is None:
        pytest.skip(f"the vendor's specification {name} is not part of this repository")
    return path


def not_checked(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the last line of the test report if specifications are missing."""
    vendors = sorted({each.vendor for each in missing(environment)})
    if not vendors:
        return None
    return (
        f"Not checked against the published API specification: {', '.join(vendors)}. To check: "
        "python -m tests.support.vendor_specs FOLDER, then VENDOR_SPECS=FOLDER make test"
    )


def fetch(into: Path) -> None:
    """Download every specification; a file that is not an OpenAPI document is an error."""
    into.mkdir(parents=True, exist_ok=True)
    for each in SPECIFICATIONS:
        with urllib.request.urlopen(each.url, timeout=60) as response:  # noqa: S310 - the addresses above, all https
            content = response.read()
        if "openapi" not in json.loads(content):
            sys.exit(f"{each.url} is not an OpenAPI document.")
        (into / each.name).write_bytes(content)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
