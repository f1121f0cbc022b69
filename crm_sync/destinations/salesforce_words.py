"""What do Salesforce's refusals ask of us: mend the rows, have a person help, or come back later?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from crm_sync.destination import BatchRefusedError, UnavailableError
from crm_sync.destinations.pacing import Heard
from crm_sync.destinations.replies import Reply, asked_wait
from crm_sync.redaction import redacted
from warehouse.errors import ContractError, WinbackError

# https://developer.salesforce.com/docs/atlas.en-us.api_asynch.meta/api_asynch/bulk_api_2_0_errors.htm
_OF_ROWS = {"invalidbatch", "clientinputerror"}
_OF_PEOPLE = {
    "featurenotenabled",
    "invalidentity",
    "invalidjob",
    "invalidoperation",
    "invalidsessionid",
    "invalidurl",
    "invaliduser",
}
_OF_QUOTA = {"exceededquota", "request_limit_exceeded", "limit_exceeded"}


def failure(message: object, columns: set[str], external_ids: Sequence[str]) -> WinbackError:
    """What a job that failed before its first row asks of us, by its message."""
    text = str(message or "no reason given")
    code = code_at_start(text)
    if "field name not found" in text.lower():
        # Of every row, or of all that change this field: halving would make thousands of jobs to say the same.
        name = next((each for each in sorted(columns) if re.search(rf"\b{each}\b", text)), "of the mapping")
        return ContractError(f"Salesforce has no field {name} that this key may write. See winback doctor")
    if code in _OF_ROWS:
        return BatchRefusedError(200, code, redacted(text, *external_ids))
    return _judged(f"A Salesforce job failed: {code}", code)


def _judged(says: str, code: str) -> WinbackError:
    if code in _OF_QUOTA:
        return UnavailableError(f"{says}. The rest waits for a later run.", "throttled")
    return ContractError(f"{says}. See winback doctor") if code in _OF_PEOPLE else UnavailableError(says)


def unfit(says: str, refused: BatchRefusedError) -> WinbackError:
    """A refusal of a request that holds nothing of the rows: a person must help, unless a quota is used up."""
    return _judged(f"{says}: {refused.code}", refused.code if refused.code in _OF_QUOTA else "invalidjob")


def refusal(reply: Reply) -> tuple[str, str | None]:
    """The code and the redacted sentence of a 4xx."""
    error = next(iter(objects(reply.body)), {})
    code, text = error.get("errorCode"), error.get("message")
    return code_at_start(code) if code else f"http_{reply.status}", redacted(text) if text else None


def heard(reply: Reply) -> Heard:
    """Whether a wait is asked for, and whether the org's requests are used up: a 403 that is no matter of permissions."""
    return Heard(asked_wait(reply), is_spent=reply.status == 403 and "REQUEST_LIMIT_EXCEEDED" in reply.text)


def code_at_start(text: object) -> str:
    """The code that Salesforce's messages begin with, in lower case: STRING_TOO_LONG:..., InvalidBatch : ..."""
    code = re.match(r"([A-Z][A-Za-z_]+)\s*(?::|$)", str(text))
    return code[1].lower() if code else "unknown"


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects in a list, nothing where there is none."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
