"""Search for users' data or the key in places where they must not be: unique texts, and a function that finds them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

KEY = "kEy-7f3a9c51-of-the-crm"
USER = "usr-9d41c0ffee"
EMAIL = "ada.wintergreen+canary@example.org"
NAME = "Wintergreen"
VALUE = "margin of 48,211 kroner"  # a property's value
CANARIES = (KEY, USER, EMAIL, NAME, VALUE, "7f3a9c51", "9d41c0ffee", "48,211")

# Text of a CRM that quotes everything. A name without quotes or brackets looks like any other word.
QUOTED_PII = (
    f"Invalid for user {USER} <{NAME} {EMAIL}>: \"{VALUE}\" and '{NAME}' of {EMAIL} ({USER}), key {KEY}; {{{VALUE}}}"
)

# The warehouse and CRM files, which must hold users, and the app's input files.
_DATA = (".duckdb", ".duckdb.wal", ".sqlite", ".sqlite-wal", ".sqlite-shm", ".parquet", ".csv")


def canaries_in(texts: Mapping[str, str], canaries: Iterable[str] = CANARIES) -> list[str]:
    """Return where a canary occurs: as it is, in another case, or as URLs and JSON encode it."""
    return [
        f"{canary} in {where}"
        for canary in canaries
        for spelt in {canary, quote(canary), quote(canary, safe=""), json.dumps(canary)[1:-1]}
        for where, text in texts.items()
        if spelt.lower() in f"{where}\n{text}".lower()
    ]


def files_of(folder: Path) -> dict[str, str]:
    """Return every file below a folder by its path, except the data."""
    return {
        str(path.relative_to(folder)): path.read_bytes().decode("utf-8", errors="replace")
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(_DATA)
    }
