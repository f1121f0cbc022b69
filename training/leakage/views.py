"""Views of a column that might reveal the outcome of an exit: its value, or an aspect that an error in SQL may expose.

A view assigns each row a level by one aspect of its value, from 0, which is "missing". This module does not know the labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Codes = npt.NDArray[np.int64]

# Bins of equal counts. Few, because 200 rows are too few for 256 bins; many, because a leak may hide in a narrow band.
BINS = (8, 32, 256)
# Remainders: parity, thirds, weekdays, the last digit, a half-byte, two last digits. Shorter ones come first: simple views win.
REMAINDERS = {
    2: "whether it is odd",
    3: "its remainder by 3",
    7: "its remainder by 7",
    10: "its last digit before the decimal point",
    16: "its remainder by 16",
    100: "its last two digits before the decimal point",
}
MAX_DECIMALS = 9  # a float64 holds these exactly for values up to 4 million
MAX_WHOLE = 2.0**52  # beyond it a float64 has no digits after the point
LOW_BITS = 7  # mask of three bits
_CHARACTERS = {
    "its length": pc.utf8_length,
    "its first character": lambda words: pc.utf8_slice_codeunits(words, 0, 1),
    "its last character": lambda words: pc.utf8_slice_codeunits(words, -1),
}


@dataclass(frozen=True)
class View:
    """One aspect, in words that complete "by ...". A hidden view should not reveal more than the value does."""

    words: str
    codes: Codes
    is_hidden: bool


def views(column: pa.ChunkedArray) -> Iterator[View]:
    """Yield the views of a column of numbers, booleans or text, the simplest words first.

    The column is read in its own type. A model cannot see what float32 rounds away, but it shows that the SQL knew the label.
    """
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if is_text or pa.types.is_dictionary(column.type):
        yield from _text(column.cast(pa.string()).combine_chunks())
        return
    values = column.cast(pa.float64(), safe=False).to_numpy().copy()
    filled = np.isfinite(values)
    yield View("whether it is missing", (~filled).astype(np.int64), False)
    if not filled.any():
        return

    def view(words: str, codes: Any, *, is_hidden: bool = True) -> View:
        levels = np.zeros(len(values), dtype=np.int64)
        levels[filled] = codes.astype(np.int64) + 1
        return View(words, levels, is_hidden)

    known = values[filled]
    _, level, counts = np.unique(known, return_inverse=True, return_counts=True)
    for bins in BINS:
        yield view("its value", _bins(counts, bins)[level], is_hidden=False)
    yield view("its exact value", _repeated(counts)[level], is_hidden=False)
    for words, codes in _whole(column, known, filled):
        yield view(words, codes)
    if not pa.types.is_integer(column.type) and not pa.types.is_boolean(column.type):
        for words, codes in _fraction(known, is_short=pa.types.is_float32(column.type)):
            yield view(words, codes)


def _text(column: pa.Array) -> Iterator[View]:
    encoded = column.dictionary_encode()
    level = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    yield View("whether it is missing", (level == 0).astype(np.int64), False)
    counts = np.bincount(level, minlength=len(encoded.dictionary) + 1)
    yield View("its value", np.concatenate([[0], 1 + _repeated(counts[1:])])[level], False)
    for words, aspect in _CHARACTERS.items():
        found = aspect(encoded.dictionary).dictionary_encode().indices.to_numpy().astype(np.int64)
        yield View(words, np.concatenate([[0], 1 + found])[level], True)


def _whole(column: pa.ChunkedArray, known: Any, filled: Any) -> Iterator[tuple[str, Any]]:
    if pa.types.is_integer(column.type):  # in 64 bits: a float64 holds no more than 53
        whole = column.cast(pa.int64(), safe=False).fill_null(0).to_numpy()[filled]
    else:
        whole = np.floor(np.clip(known, -(2.0**62), 2.0**62)).astype(np.int64)
    whole = np.abs(whole)
    for divisor, words in REMAINDERS.items():
        yield words, whole % divisor


def _fraction(known: Any, *, is_short: bool) -> Iterator[tuple[str, Any]]:
    size = np.abs(known)
    part = size - np.floor(size)
    if not part.any():
        return
    # Maximum distance of a decimal number from its nearest binary one.
    closeness = 2.0**-23 if is_short else 2.0**-51
    decimals = np.full(len(known), MAX_DECIMALS + 1)
    for place in range(MAX_DECIMALS + 1):
        scaled = size * 10.0**place
        slack = scaled * closeness + 1e-9
        nearest = np.rint(scaled)
        is_exact = (np.abs(scaled - nearest) <= slack) & (scaled < MAX_WHOLE)
        decimals[is_exact & (decimals > place)] = place
        if place:
            digits = np.where(is_exact, nearest, np.floor(scaled))
            yield f"digit {place} after its decimal point", digits % 10
        if (decimals <= place).all():
            break
    yield "how many decimals it has", decimals
    _, level, counts = np.unique(part, return_inverse=True, return_counts=True)
    yield "its fraction", _bins(counts, BINS[-1])[level]
    yield "the last bits of its float64", size.view(np.int64) & LOW_BITS
    yield "the last bits of its float32", size.astype(np.float32).view(np.int32) & LOW_BITS


def _bins(counts: Any, count_bins: int) -> Codes:
    """Cut sorted levels, given the row count of each, into bins of about equal count. A level is never split."""
    bins: Codes = ((np.cumsum(counts) - counts / 2) * count_bins / counts.sum()).astype(np.int64)
    return bins


def _repeated(counts: Any) -> Codes:
    """Number the levels that occur more than once from 1. A value that occurs once predicts nothing, so all of these are 0."""
    is_repeated = counts > 1
    numbered: Codes = np.where(is_repeated, np.cumsum(is_repeated), 0)
    return numbered
