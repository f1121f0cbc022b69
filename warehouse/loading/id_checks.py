"""Checks of ids and names: empty values, placeholders, numbers without their last digits, and invisible characters."""

from __future__ import annotations

import re

from core.names import BLANK_LETTERS, HIDDEN, MAX_CHARACTERS

# Spaces and line breaks of any script, control and format characters, and invisible letters and symbols.
INVISIBLE = r"[\s\p{Z}\p{Cc}\p{Cf}" + "".join(f"\\x{{{ord(letter):X}}}" for letter in BLANK_LETTERS) + "]"
_HIDDEN = "[" + "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in HIDDEN) + "]"
# Texts that programs write for a missing value, in lower case: those that Mixpanel and PostHog refuse as distinct ids, those
# that pandas, Excel, SQL dumps, Java, Go, JavaScript and Python print, and the id of a device that may not be tracked.
PLACEHOLDERS = (
    "null", "(null)", "<null>", "[null]", "{null}", "nil", "<nil>", "none", "<none>", "(none)", "nan", "-nan", "nat",
    "na", "n/a", "<na>", "n.a.", "#n/a", "#na", "#null!", "#ref!", "#value!", "#name?", "#num!", "#div/0!", "\\n",
    "undefined", "undef", "void", "inf", "-inf", "+inf", "infinity", "-infinity", "unknown", "missing", "empty",
    "blank", "(blank)", "(empty)", "not set", "(not set)", "not_set", "anonymous", "anon", "guest",
    "not_authenticated", "true", "false", "[object object]", "object object", "system.object", "[]", "{}", "()", '""',
    "''", "-", "--", "---", "?", "??", "???", ".", "...", "_", "*", "user_id", "userid", "event_id", "redemption_id",
    "distinct_id", "distinctid", "00000000-0000-0000-0000-000000000000", "00000000000000000000000000000000",
    "{00000000-0000-0000-0000-000000000000}",
)  # fmt: skip
# 1.2E+10 and 1e+10; 1e10 may be an id in hexadecimal.
_ROUNDED = r"[+-]?[0-9]+(\.[0-9]+[eE][+-]?|[eE][+-])[0-9]+"
_PLAIN = "[!-~]([ -~]*[!-~])?"  # matches most ids; tested first, because it is cheap


def empty(raw: str) -> str:
    """SQL that is true for a missing or invisible text."""
    return f"({raw} is null or (not regexp_full_match({raw}, '{_PLAIN}') and regexp_full_match({raw}, '{INVISIBLE}*')))"


def padded(raw: str) -> str:
    """SQL that is true for a text that begins or ends with blanks or invisible characters."""
    edge = f"regexp_matches({raw}, '(^{INVISIBLE}|{INVISIBLE}$)')"
    return f"(not regexp_full_match({raw}, '{_PLAIN}') and {edge} and not {empty(raw)})"


def hidden(raw: str) -> str:
    """SQL that is true for a text with a control or invisible character between others."""
    within = f"regexp_matches({raw}, '{_HIDDEN}')"
    return f"(not regexp_full_match({raw}, '{_PLAIN}') and {within} and not {padded(raw)} and not {empty(raw)})"


def too_long(raw: str) -> str:
    """SQL that is true for a text longer than any id or name."""
    return f"(strlen({raw}) > {MAX_CHARACTERS} and length({raw}) > {MAX_CHARACTERS})"


def placeholder(raw: str) -> str:
    """SQL that is true for a placeholder of a missing value."""
    # Not `in (...)`: DuckDB turns a long list into a join, which changes the order of the file's rows.
    listed = "|".join(re.escape(text) for text in PLACEHOLDERS).replace("'", "''")
    return f"regexp_full_match({raw}, '(?i)({listed})')"


def rounded(raw: str) -> str:
    """SQL that is true for a number written with an exponent, which has lost its last digits."""
    return f"regexp_full_match({raw}, '{_ROUNDED}')"
