"""Bulk jobs of the local CRM's Salesforce: CSV rows read, typed by their fields, and listed in result files."""

import base64
import csv
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

EMPTIED = "#N/A"
TEXT_LENGTH = 255
Field = dict[str, Any]  # in the form that describe returns


class JobFailedError(Exception):
    """The job fails as a whole; the text becomes its errorMessage."""


@dataclass
class Job:
    """A job from its creation on. `refused` maps external ids that a fault refuses to their errors."""

    id: str
    external_id_field: str
    run_id: str | None
    created_at: datetime
    state: str = "Open"
    polls: int = 0
    content: bytes | None = None
    refused: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    results: dict[str, list[dict[str, str]]] = field(default_factory=dict)


def record_id(external_id: str) -> str:
    """Return the constant record id of a user's contact: 003 and 12 characters, then 3 that encode which of them are capitals.

    https://help.salesforce.com/s/articleView?id=000385585&type=1
    """
    name = "003" + base64.b32encode(hashlib.sha256(external_id.encode()).digest()).decode()[:12]
    capitals = (sum(2**place for place in range(5) if name[start + place].isupper()) for start in (0, 5, 10))
    return name + "".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"[number] for number in capitals)


def canonical(name: str) -> str:
    """Return a field's name as the store spells it: Churn_Risk_Band__c is churn_risk_band."""
    return name.removesuffix("__c").lower()


def read(content: bytes, id_field: str, fields: Mapping[str, Field]) -> list[dict[str, str]]:
    """Read the rows. Raises JobFailedError for invalid CSV, and for a column that is not a field."""
    try:
        lines = [line for line in csv.reader(io.StringIO(content.decode(), newline=""), strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise JobFailedError("ClientInputError : Failed to parse the CSV") from error
    header = lines[0] if lines else []
    for name in header:
        if name.lower() not in fields:
            raise JobFailedError(f"InvalidBatch : Field name not found : {name}")
    if id_field not in header or len(set(header)) < len(header):
        raise JobFailedError(f"InvalidBatch : Field name not found : {id_field}")
    if any(len(line) != len(header) for line in lines):
        raise JobFailedError("InvalidBatch : The number of columns in a row does not match the header")
    return [dict(zip(header, line, strict=True)) for line in lines[1:]]


def work(
    job: Job,
    fields: Mapping[str, Field],
    is_known: Callable[[str], bool],
    write: Callable[[list[dict[str, object]]], object],
    count_rows: int | None = None,
) -> None:
    """Apply the valid ones among the first rows, and record the result of each. Raises JobFailedError."""
    rows = read(job.content or b"", job.external_id_field, fields)[:count_rows]
    counts = Counter(row[job.external_id_field] for row in rows)
    job.results = {"successfulResults": [], "failedResults": [], "unprocessedrecords": []}
    profiles: list[dict[str, object]] = []
    for row in rows:
        external_id = row[job.external_id_field]
        error = job.refused.get(external_id) or _identity_error(external_id, job.external_id_field, counts)
        was_known = is_known(external_id)
        if not error and not was_known:
            error = _lacking(fields, row, job.external_id_field)
        attributes: dict[str, object] = {}
        for name in row.keys() - {job.external_id_field} if not error else ():
            try:
                if row[name] != "":
                    attributes[canonical(name)] = typed(row[name], fields[name.lower()])
            except ValueError as wrong:
                error = f"{wrong}:{name} --"
        if error:
            job.results["failedResults"].append({"sf__Id": "", "sf__Error": error, **row})
        else:
            told = {"sf__Id": record_id(external_id), "sf__Created": "false" if was_known else "true"}
            job.results["successfulResults"].append({**told, **row})
            profiles.append({"external_id": external_id, **attributes})
    write(profiles)


def _identity_error(external_id: str, id_field: str, counts: Counter[str]) -> str | None:
    if external_id in {"", EMPTIED}:
        return f"MISSING_ARGUMENT:{id_field} not specified:--"
    if counts[external_id] > 1:
        return f"DUPLICATE_VALUE:Duplicate external id specified: {external_id}:{id_field} --"
    return None


def _lacking(fields: Mapping[str, Field], row: Mapping[str, str], id_field: str) -> str | None:
    needed = [f["name"] for f in fields.values() if not f["nillable"] and not f["defaultedOnCreate"]]
    missing = [name for name in needed if name != id_field and row.get(name, "") in {"", EMPTIED}]
    names = ", ".join(missing)
    return f"REQUIRED_FIELD_MISSING:Required fields are missing: [{names}]:{names} --" if missing else None


def typed(text: str, described: Field) -> object:
    """Return the value of a cell, None if it is empty. Raises ValueError with Salesforce's message for a wrong type."""
    kind, label = described["type"], described["label"]
    if text == EMPTIED:
        return False if kind == "boolean" else None
    if kind == "boolean":
        if text.lower() not in {"true", "false", "1", "0"}:
            raise ValueError(f"INVALID_TYPE_ON_FIELD_IN_RECORD:{label}: value not of required type: {text}")
        return text.lower() in {"true", "1"}
    if kind in {"double", "datetime"}:
        try:
            return float(text) if kind == "double" else _time(text)
        except ValueError:
            raise ValueError(f"INVALID_TYPE_ON_FIELD_IN_RECORD:{label}: value not of required type: {text}") from None
    if kind == "multipicklist":
        return text.split(";")
    if len(text) > TEXT_LENGTH:
        raise ValueError(f"STRING_TOO_LONG:{label}: data value too large: {text} (max length={TEXT_LENGTH})")
    return text


def _time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("without a time zone")
    return text


def as_csv(rows: Iterable[Mapping[str, str]], header: list[str]) -> str:
    """Write a result file with every cell quoted. A file without rows has only a header."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(header)
    writer.writerows([row.get(name, "") for name in header] for row in rows)
    return out.getvalue()
