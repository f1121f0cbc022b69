"""Detects a file's real format from its first bytes: it may be renamed, exported in another format, or an error page."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_START = 1 << 10  # bytes needed to detect a kind


class UnusableFileError(Exception):
    """A problem of a file as a whole, and its fix: two sentences without the file's name."""

    def __init__(self, what: str, fix: str) -> None:
        """Create the error from the two sentences."""
        super().__init__(what)
        self.what, self.fix = what, fix


@dataclass(frozen=True)
class Kind:
    """A format's name, and how to convert such a file to one that can be loaded."""

    name: str
    fix: str


_CONVERT = "Convert it to .parquet, .csv or .csv.gz."
_UTF_8 = "Save it as UTF-8."
GZIP = Kind("gzip", "Rename it to .csv.gz.")
PARQUET = Kind("Parquet", "Rename it to .parquet.")
TEXT = Kind("text", "Rename it to .csv if it is CSV.")
# First bytes of each format. UTF-32 comes before UTF-16, because its bytes begin with those of UTF-16.
_MARKS: tuple[tuple[bytes, Kind], ...] = (
    (b"\x1f\x8b", GZIP),
    (b"PAR1", PARQUET),
    (b"PARE", Kind("encrypted Parquet", "Export it without encryption.")),
    (b"PK\x03\x04", Kind("a zip archive or a spreadsheet (.xlsx)", _CONVERT)),
    (b"\xd0\xcf\x11\xe0", Kind("a spreadsheet (.xls)", _CONVERT)),
    (b"\xff\xfe\0\0", Kind("UTF-32", _UTF_8)),
    (b"\0\0\xfe\xff", Kind("UTF-32", _UTF_8)),
    (b"\xff\xfe", Kind("UTF-16", _UTF_8)),
    (b"\xfe\xff", Kind("UTF-16", _UTF_8)),
    (b"\x28\xb5\x2f\xfd", Kind("zstd", "Decompress it, or compress it with gzip.")),
    (b"BZh", Kind("bzip2", "Decompress it, or compress it with gzip.")),
    (b"\xfd7zXZ\0", Kind("xz", "Decompress it, or compress it with gzip.")),
    (b"\x04\x22\x4d\x18", Kind("LZ4", "Decompress it, or compress it with gzip.")),
    (b"ARROW1", Kind("Arrow (Feather)", _CONVERT)),
    (b"\xff\xff\xff\xff", Kind("an Arrow stream", _CONVERT)),
    (b"ORC", Kind("ORC", _CONVERT)),
    (b"Obj\x01", Kind("Avro", _CONVERT)),
    (b"SQLite format 3\0", Kind("a SQLite database", _CONVERT)),
    (b"%PDF-", Kind("PDF", _CONVERT)),
    (b"{", Kind("JSON", _CONVERT)),
    (b"[", Kind("JSON", _CONVERT)),
    (b"<", Kind("a web page or XML", "The download may have been refused: open the file, and export it again.")),
)
# Control characters that do not occur in text: all except tab, line feed, form feed, carriage return and escape.
_CONTROL = frozenset({*range(32), 127} - {9, 10, 12, 13, 27})


def kind_of(start: bytes) -> Kind | None:
    """Return the kind of a file from its first bytes: a known format, text, or None if unknown."""
    for mark, kind in _MARKS:
        if start.startswith(mark):
            return kind
    if start[8:12] == b"DUCK":
        return Kind("a DuckDB database", _CONVERT)
    head = start[:LONGEST_START]
    if len(head) > 1 and head.count(0) * 3 >= len(
        head
    ):  # without a byte order mark: every other byte of Latin text is 0
        return Kind("UTF-16", _UTF_8)
    # UTF-8 or a similar encoding. Faults of single rows are reported by row.
    return None if _CONTROL & set(head) else TEXT


def check_kind(start: bytes, expected: Kind) -> None:
    """Check the kind of a file from its first bytes. Raises: UnusableFileError if it differs from the kind its name implies."""
    found = kind_of(start)
    if found and found != expected:
        raise UnusableFileError(f"{found.name}, although its name says otherwise", found.fix)
