"""Reads the files of a bundle from disk and validates them; errors name the file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, RootModel, ValidationError

from core.errors import ContractError

Contents = TypeVar("Contents", bound=BaseModel)

# Versions and attachment names become path components, so names that could escape the folder are refused.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MAX_BYTES = 64 << 20  # the largest real file, `reference.json`, has 60 KB
REMEDY = "Restore it, or promote another version: winback promote VERSION"

_FileName = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class Manifest(BaseModel):
    """`manifest.json`: the files of the bundle, and when and on what it was trained."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str
    trained_at: AwareDatetime
    learned_until: AwareDatetime
    sha256: dict[_FileName, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]


class Metrics(RootModel[dict[str, float]]):
    """`metrics.json`: numbers by name."""


def read_object(path: Path, version: str) -> dict[str, Any]:
    """Read a JSON file that must hold an object.

    Raises: ContractError that names the bundle and the file; OSError when it cannot be opened.
    """
    with path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    try:
        if len(content) > MAX_BYTES:
            raise damaged(version, path.name, "it is too large")
        found = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise damaged(version, path.name, "it is not UTF-8") from None
    except (ValueError, RecursionError):  # nested too deeply
        raise damaged(version, path.name, "it is not valid JSON") from None
    if not isinstance(found, dict):
        raise damaged(version, path.name, "it is not a JSON object")
    return found


def checked(contents: type[Contents], found: dict[str, Any], version: str, name: str) -> Contents:
    """Return a file's validated contents.

    Raises: ContractError that names the bundle, the file, and its first mistake.
    """
    try:
        return contents.model_validate(found)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"]))
        told = f"{place}: {problem['msg']}" if place else problem["msg"]
        raise ContractError(
            f"Model bundle {version}: {name} does not have this program's format ({told.removeprefix('Value error, ')}). "
            "Deploy the program that wrote it, or promote another version: winback promote VERSION"
        ) from None


def damaged(version: str, name: str, why: str) -> ContractError:
    """Return the error for a file that cannot be used."""
    return ContractError(f"Model bundle {version}: {name} cannot be used ({why}). {REMEDY}")


def read_pointer(path: Path) -> str | None:
    """Return the version that a pointer file names; None if the file is absent or empty.

    Raises: ContractError when it does not name a version.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as stream:
            text = stream.read(1_000).decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        text = "?"
    if text and not NAME.fullmatch(text):
        raise ContractError(
            f"The file {path.name} in {path.parent}/ does not name a model version. Delete it, or write the name of a folder "
            "beside it into it. Then run: winback promote VERSION"
        )
    return text or None
