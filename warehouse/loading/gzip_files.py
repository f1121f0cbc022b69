"""Check of a whole gzip file, because DuckDB accepts a truncated one as a short one."""

from __future__ import annotations

import zlib
from pathlib import Path

from warehouse.loading.file_kinds import UnusableFileError

CHUNK_BYTES = 1 << 20
# RFC 1952, flags of a member's header. DuckDB 1.5 skips a file's name and extra fields, and refuses the others.
_READ_BY_DUCKDB = 0b0000_1100
_HEADER_BYTES = 4


def check_gzip(path: Path) -> bytes:
    """Read a whole gzip file and return the beginning of its contents, at most CHUNK_BYTES.

    Raises: UnusableFileError if it is truncated, altered, followed by other bytes, or has a header that DuckDB does not read.
    OSError if it cannot be read.
    """
    start = b""
    with path.open("rb") as stream:
        rest = stream.read(CHUNK_BYTES)
        if not rest:
            raise _not_whole()
        while rest:
            while len(rest) < _HEADER_BYTES and (more := stream.read(CHUNK_BYTES)):
                rest += more
            _check_header(rest, is_first=not start)
            member = zlib.decompressobj(wbits=31)
            try:
                while True:
                    data = member.decompress(rest, CHUNK_BYTES)
                    start += data[: CHUNK_BYTES - len(start)]
                    if member.eof:
                        break
                    rest = member.unconsumed_tail or stream.read(CHUNK_BYTES)
                    if not rest and not data:
                        raise _not_whole()
            except zlib.error:
                raise _not_whole() from None
            rest = member.unused_data or stream.read(CHUNK_BYTES)
    return start


def _check_header(header: bytes, *, is_first: bool) -> None:
    """Check the header of a member. A gzip file may consist of several members."""
    if header[:2] != b"\x1f\x8b":
        if is_first:
            raise _not_whole()
        raise UnusableFileError(
            "followed by bytes that are not gzip", "It may be padded or written twice: export it again."
        )
    if len(header) >= _HEADER_BYTES and header[3] & ~_READ_BY_DUCKDB:
        what = "a gzip file whose header has a comment, a checksum or a mark, which DuckDB does not read"
        raise UnusableFileError(what, "Decompress it and compress it again with gzip.")


def _not_whole() -> UnusableFileError:
    return UnusableFileError(
        "not a complete gzip file", "It is truncated, damaged or of another kind: export it again."
    )
