"""Reads the body of a reply completely, decompresses it and limits its size.

urllib3 can decompress too, but accepts a truncated compressed body as complete. A file of results would then lack rows or part
of a user's id.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import urllib3

from crm_sync.destinations.http.connection import TransientError

ENCODINGS = "gzip, deflate"  # sent as Accept-Encoding
_PART_BYTES = 64 << 10
_MAX_LAYERS = 2  # compressed by the server, and again by a gateway
_MAX_MEMBERS = 100  # of a gzip body; each costs a copy of the bytes after it
_GZIP, _ZLIB, _DEFLATE = 31, 15, -15  # https://docs.python.org/3/library/zlib.html#zlib.decompressobj


def read_body(raw: urllib3.BaseHTTPResponse, encoding: str, limit: int, look: Callable[[], None]) -> bytes:
    """Read a body part by part and decompress it. `look` is called after each part and raises when reading takes too long.

    Raises: TransientError if it is larger than `limit` bytes or cannot be decompressed, urllib3's HTTPError if it is cut off,
    and what `look` raises.
    """
    content = bytearray()
    while part := raw.read1(_PART_BYTES, decode_content=False):
        content += part
        _see_size(len(content), limit)
        look()
    return unpacked(bytes(content), encoding, limit)


def unpacked(content: bytes, encoding: str, limit: int) -> bytes:
    """Undo the encodings in a Content-Encoding header, the last one first. Stops at `limit` bytes.

    Raises: TransientError.
    """
    names = [name for each in encoding.lower().split(",") if (name := each.strip()) not in ("", "identity")]
    if len(names) > _MAX_LAYERS:
        raise TransientError(f"a reply that was compressed {len(names)} times")
    for name in reversed(names):
        content = _unpacked_once(content, name, limit)
    return content


def _unpacked_once(content: bytes, name: str, limit: int) -> bytes:
    frame = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _frame_of_deflate(content)}.get(name)
    if frame is None:
        raise TransientError("a reply with a compression that was not requested")
    whole, members = bytearray(), 0
    # Bytes after a gzip member that do not begin another member are padding.
    while content and (not members or (frame == _GZIP and content.startswith(b"\x1f\x8b"))):
        unpacking = zlib.decompressobj(frame)
        try:
            whole += unpacking.decompress(content, limit + 1 - len(whole))
        except zlib.error:
            raise TransientError("a reply that cannot be decompressed") from None
        _see_size(len(whole), limit)
        members += 1
        if not unpacking.eof or members > _MAX_MEMBERS:
            raise TransientError("a compressed reply that was cut off")
        content = unpacking.unused_data
    return bytes(whole)


def _frame_of_deflate(content: bytes) -> int:
    """The frame of a deflate body. Some servers omit it (RFC 9110, 8.4.1.2); its first two bytes are a multiple of 31."""
    has_frame = len(content) > 1 and content[0] & 15 == 8 and int.from_bytes(content[:2], "big") % 31 == 0
    return _ZLIB if has_frame else _DEFLATE


def _see_size(size: int, limit: int) -> None:
    if size > limit:
        raise TransientError(f"a reply of more than {limit >> 20} MiB")
