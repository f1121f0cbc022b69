"""Bodies of replies: compressed ones are decompressed completely and within a size limit, or refused."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_sync.destinations.http.bodies import unpacked
from crm_sync.destinations.http.connection import TransientError
from tests.support.gzipped import gzipped

LIMIT = 1 << 20
TEXT = b'{"id": "user-12"}\r\n' * 20
RAW = zlib.compress(TEXT)[2:-4]


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (TEXT, ""),
        (TEXT, "identity"),
        (TEXT, " , identity,"),
        (gzipped(TEXT), "gzip"),
        (gzipped(TEXT), "X-GZip"),
        (gzipped(TEXT), "GZIP, identity"),
        (gzipped(TEXT[:30]) + gzipped(TEXT[30:]), "gzip"),
        (gzipped(TEXT) + b"\0" * 9, "gzip"),
        (zlib.compress(TEXT), "deflate"),
        (RAW, "deflate"),
        (gzipped(zlib.compress(TEXT)), "deflate, gzip"),
    ],
)
def test_what_was_packed_comes_out_as_it_was(content: bytes, encoding: str) -> None:
    assert unpacked(content, encoding, LIMIT) == TEXT


@pytest.mark.parametrize("encoding", ["", "gzip", "deflate", "gzip, gzip"])
def test_nothing_is_nothing(encoding: str) -> None:
    assert unpacked(b"", encoding, LIMIT) == b""


@pytest.mark.parametrize(
    ("content", "encoding", "why"),
    [
        (gzipped(TEXT)[:-9], "gzip", "was cut off"),
        (gzipped(TEXT)[:-1], "gzip", "was cut off"),
        (gzipped(TEXT)[:5], "gzip", "was cut off"),
        (gzipped(TEXT) + gzipped(TEXT)[:-9], "gzip", "was cut off"),
        (zlib.compress(TEXT)[:-1], "deflate", "was cut off"),
        (RAW[:-1], "deflate", "was cut off"),
        (gzipped(TEXT)[:-8] + b"\0" * 8, "gzip", "cannot be decompressed"),
        (TEXT, "gzip", "cannot be decompressed"),
        (b"\xff\xff\xff", "deflate", "cannot be decompressed"),
        (TEXT, "br", "not requested"),
        (TEXT, "gzip;q=1", "not requested"),
        (gzipped(TEXT), ", ".join(["gzip"] * 100), "compressed 100 times"),
        (gzipped(bytes(LIMIT + 1)), "gzip", "more than 1 MiB"),
        (zlib.compress(bytes(LIMIT + 1)), "deflate", "more than 1 MiB"),
        (gzipped(bytes(LIMIT)) * 2, "gzip", "more than 1 MiB"),
        (gzipped(gzipped(bytes(LIMIT * 200))), "gzip, gzip", "more than 1 MiB"),
        (gzipped(b"") * 1_000, "gzip", "was cut off"),
    ],
)
def test_what_is_not_whole_or_too_large_is_tried_again(content: bytes, encoding: str, why: str) -> None:
    with pytest.raises(TransientError, match=why):
        unpacked(content, encoding, LIMIT)


def test_a_body_of_just_the_limit_is_taken() -> None:
    assert unpacked(gzipped(bytes(LIMIT)), "gzip", LIMIT) == bytes(LIMIT)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]), st.data())
def test_every_body_that_was_cut_off_is_noticed(text: bytes, encoding: str, data: st.DataObject) -> None:
    packed = gzipped(text) if encoding == "gzip" else zlib.compress(text)
    assert unpacked(packed, encoding, LIMIT) == text
    with pytest.raises(TransientError):
        unpacked(packed[: data.draw(st.integers(1, len(packed) - 1))], encoding, LIMIT)
