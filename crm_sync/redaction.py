"""Redaction of a CRM's error text: keeps its words and removes the user data that it quotes.

Limitation: an unquoted personal name cannot be distinguished from an ordinary word. That would take a list of every word a CRM
may use. No CRM documents one, and a Salesforce org's own validation rules add words. winback itself sends no names.
"""

from __future__ import annotations

import re

MAX_LENGTH = 200
# The rest of a longer text is dropped unread: the patterns' time grows with the square of a word's length.
_READ_LENGTH = 2_000
# In this order: quoted text, then e-mail addresses, then words with a digit, which may be an id, a phone number or an amount.
_PRIVATE = re.compile(
    r"""
      # quoted, or a value; without a closing sign it extends to the end; an apostrophe within a word does not open a quote
    "[^"]*("|$) | (?<!\w)'[^']*('|$) | `[^`]*(`|$) | “[^”]*(”|$) | \{[^}]*(\}|$) | \[[^\]]*(\]|$) | <[^>]*(>|$)
    | [^\s@]+@[^\s@]+                                                             # an e-mail address
    | \S*\d\S*                                                                    # ids, numbers, times
    """,
    re.VERBOSE,
)


def redacted(text: object, *private: str) -> str:
    """Return a CRM's message without `private` texts, quotes, e-mail addresses and words with a digit; at most 200 characters.

    Unprintable characters become blanks. JSON may contain half of a surrogate pair, which no warehouse can store.
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
    """Make a code of a CRM's sentence: its first eight plain words, without those of `private` texts, joined by underscores."""
    sentence = str(text).split(":")[0].split("'")[0].split('"')[0]
    words = [word.strip(".,;!?()") for word in sentence.lower().split()]
    secrets = {word.strip(".,;!?()") for secret in private for word in secret.lower().split()}
    plain = [word for word in words if word.replace("_", "").isalpha() and word not in secrets]
    return "_".join(plain[:8]) or "unknown"
