"""Is a file that people edit what the program expects?"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from warehouse.errors import ContractError

Contents = TypeVar("Contents", bound=BaseModel)


def read_yaml(path: Path, contents: type[Contents], what: str) -> Contents:
    """Read and validate a file; `what` it is called in an error.

    Raises: ContractError that names the file and everything that is wrong in it.
    """
    try:
        return contents.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        wrong = [
            f"  {'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors(include_url=False)
        ]
        raise ContractError(f"{path.name} is no {what}:\n" + "\n".join(wrong)) from None
    except FileNotFoundError:
        raise ContractError(
            f"There is no {path.name} in {path.parent}/. Does WINBACK_CONFIG name the right folder?"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ContractError(f"{path.name} is no {what}: {error}") from None
