"""Redaction of a CRM's error text: its words are kept, what it quotes of a user is not.

A name without quotes, of whom winback does not know it, is not told from a word: only a list of all words that each CRM may use
could, and none is documented; of Salesforce an org's own validation rules write some. winback itself sends no names.
"""

from __future__ import annotations

import re

MAX_LENGTH = 200
# Of a longer sentence the rest is not looked at: the patterns' time grows with the square of a word's length.
_READ_LENGTH = 2_000
# In this order: what is quoted whole, then addresses, then anything with a digit in it, which may be an id, a phone or an amount.
_PRIVATE = re.compile(
    r"""
      # quoted, or a value; what is opened and not closed goes to the end, an apostrophe within a word opens nothing
    "[^"]*("|$) | (?<!\w)'[^']*('|$) | `[^`]*(`|$) | “[^”]*(”|$) | \{[^}]*(\}|$) | \[[^\]]*(\]|$) | <[^>]*(>|$)
    | [^\s@]+@[^\s@]+                                                             # an e-mail address
    | \S*\d\S*                                                                    # ids, numbers, times
    """,
    re.VERBOSE,
)


def redacted(text: object, *private: str) -> str:
    """Return a CRM's message without the `private` texts, what is quoted, addresses and words with a digit; at most 200 long.

    What does not show becomes a blank: half of a surrogate pair, which JSON may name, can be stored nowhere.
    """
    words = _shown(str(text))
    for secret in sorted((_shown(text) for text in private), key=len, reverse=True):
        if secret:
            words = words.replace(secret, "...")
    words = _PRIVATE.sub("...", words[:_READ_LENGTH])
    return words if len(words) <= MAX_LENGTH else words[: MAX_LENGTH - 3] + "..."


def _shown(text: str) -> str:
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else " " for sign in text)
    return " ".join(text.split())


def slugify_error(text: object, *private: str) -> str:
    """A CRM's sentence as a code: its first eight plain words that are none of the `private` texts', joined by underscores."""
    sentence = str(text).split(":")[0].split("'")[0].split('"')[0]
    words = [word.strip(".,;!?()") for word in sentence.lower().split()]
    secrets = {word.strip(".,;!?()") for secret in private for word in secret.lower().split()}
    plain = [word for word in words if word.replace("_", "").isalpha() and word not in secrets]
    return "_".join(plain[:8]) or "unknown"
