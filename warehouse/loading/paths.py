"""Finds the files of raw rows for the paths that a person gives: files, folders, or patterns with wildcards."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from warehouse.loading.problems import Problem

ENDINGS = (".parquet", ".csv", ".csv.gz")


@dataclass(frozen=True)
class Found:
    """The files to load, in order and each once; other files in the given folders, which are not loaded; and problems."""

    files: tuple[Path, ...]
    left_out: tuple[Path, ...] = ()
    problems: tuple[Problem, ...] = ()


def find_files(named: Iterable[Path]) -> Found:
    """Find the files. An existing path is taken literally, even with wildcards in it.

    A folder stands for the Parquet and CSV files in it and below. Names that begin with a dot or an underscore are skipped,
    because they are markers of the tool that wrote the folder (`_SUCCESS`, `.part-0.crc`).
    """
    files: dict[Path, Path] = {}
    left_out: list[Path] = []
    problems: list[Problem] = []
    for path in named:
        matches = [path]
        if not path.exists() and glob.has_magic(str(path)):
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
            if not matches:
                problems.append(Problem(path.name, "no file matches the pattern", "Check the path."))
        for match in matches:
            inside = _inside(match) if match.is_dir() else [match]
            usable = [file for file in inside if not match.is_dir() or file.name.lower().endswith(ENDINGS)]
            left_out += [file for file in inside if file not in usable]
            if not usable:
                problems.append(
                    Problem(match.name, "a folder without .parquet, .csv or .csv.gz files", "Check the path.")
                )
            for file in usable:
                files.setdefault(file.resolve(), file)
    return Found(tuple(files.values()), tuple(left_out), tuple(problems))


def labels(paths: Iterable[Path]) -> list[str]:
    """Return the label of each file in messages: its name, or its path if two have the same name."""
    listed = list(paths)
    names = [path.name for path in listed]
    return [path.name if names.count(path.name) == 1 else str(path) for path in listed]


def _inside(folder: Path) -> list[Path]:
    """Return the files below a folder, in the order of their paths."""
    found = (path for path in folder.rglob("*") if path.is_file())
    parts = ((path, path.relative_to(folder).parts) for path in found)
    return sorted(path for path, names in parts if not any(name.startswith((".", "_")) for name in names))
