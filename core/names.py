"""Validation of names and ids: no invisible characters in or around them, and a maximum length.

Data and configuration follow the same rules, so any event that is loaded can be named in a configuration file.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MAX_CHARACTERS: Final = 1_000  # of an id or a name; the longest that a CRM accepts is 997 (Braze)
# Control and format characters, except the joiners, which Persian, Hindi and emoji need.
HIDDEN: Final = (
    (0x00, 0x1F),
    (0x7F, 0x9F),
    (0xAD, 0xAD),
    (0x61C, 0x61C),
    (0x180E, 0x180E),
    (0x200B, 0x200B),
    (0x200E, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x206F),
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
)
# Letters and symbols that are invisible, although Unicode lists them neither as spaces nor as control characters.
BLANK_LETTERS: Final = "\u115f\u1160\u2800\u3164\uffa0"
_HIDDEN = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in HIDDEN) + "]")


def unfit(name: str) -> str | None:
    """Return why a text cannot be used as a name and what to do, or None if it can."""
    if all(map(_is_invisible, name)):
        return "is empty or invisible. Write a name."
    if _is_invisible(name[0]) or _is_invisible(name[-1]):
        return "has blanks or invisible characters around it. Remove them."
    if _HIDDEN.search(name):
        return "holds a control or invisible character. Type it again."
    if len(name) > MAX_CHARACTERS:
        return f"is longer than {MAX_CHARACTERS:,} characters. Correct it."
    return None


def _is_invisible(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp", "Zs") or letter in BLANK_LETTERS
