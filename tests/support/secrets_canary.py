"""Is anything of a user, or the key, to be found where it must not be? Texts that nobody else would write, and a search."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

KEY = "kEy-7f3a9c51-of-the-crm"
USER = "usr-9d41c0ffee"
EMAIL = "ada.wintergreen+canary@example.org"
NAME = "Wintergreen"
VALUE = "margin of 48,211 kroner"  # what a property holds
CANARIES = (KEY, USER, EMAIL, NAME, VALUE, "7f3a9c51", "9d41c0ffee", "48,211")

# What a CRM that quotes everything says; a name that it neither quotes nor puts in brackets looks like any other word.
QUOTED_PII = (
    f"Invalid for user {USER} <{NAME} {EMAIL}>: \"{VALUE}\" and '{NAME}' of {EMAIL} ({USER}), key {KEY}; {{{VALUE}}}"
)

# The data itself, which holds users because it must; and what the app's files brought.
_DATA = (".duckdb", ".duckdb.wal", ".sqlite", ".sqlite-wal", ".sqlite-shm", ".parquet", ".csv")


def canaries_in(texts: Mapping[str, str], canaries: Iterable[str] = CANARIES) -> list[str]:
    """Where each of the canaries is found, as it is, in another case, or as URLs and JSON spell it."""
    return [
        f"{canary} in {where}"
        for canary in canaries
        for spelt in {canary, quote(canary), quote(canary, safe=""), json.dumps(canary)[1:-1]}
        for where, text in texts.items()
        if spelt.lower() in f"{where}\n{text}".lower()
    ]


def files_of(folder: Path) -> dict[str, str]:
    """Every file below a folder by its path, but for the data."""
    return {
        str(path.relative_to(folder)): path.read_bytes().decode("utf-8", errors="replace")
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(_DATA)
    }
