"""Cache of the parsed dbt project: it is used only if all of its sources are unchanged."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.transform.dbt import PROJECT
from jobs.transform.manifest_cache import NAME, read_parsed, write_parsed

FROM_AT = datetime(2026, 5, 1, tzinfo=UTC)


class Manifest:
    """Replaces dbt's manifest where only its bytes matter."""

    def to_msgpack(self) -> bytes:
        return b"not\nmsgpack"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(PROJECT, folder)
    return folder


@pytest.fixture
def kept(history: Path, project: Path, tmp_path: Path) -> Path:
    """A folder with the project that an earlier process parsed."""
    from dbt.contracts.graph.manifest import Manifest as Parsed  # noqa: PLC0415 - takes a second, which other test files save

    _, body = (history / "dbt" / NAME).read_bytes().split(b"\n", 1)
    write_parsed(tmp_path / "kept", project, "duckdb", FROM_AT, Parsed.from_msgpack(body))
    return tmp_path / "kept"


def test_what_was_parsed_is_read_again(kept: Path, project: Path) -> None:
    found = read_parsed(kept, project, "duckdb")

    assert found is not None
    assert found[0] == FROM_AT
    assert "model.winback.fct_exit_features" in found[1].nodes
    assert [path.name for path in kept.iterdir()] == [NAME]


@pytest.mark.parametrize("name", ["models/marts/features/fct_exit_features.sql", "macros/added.sql", "dbt_project.yml"])
def test_another_project_is_parsed_again(kept: Path, project: Path, name: str) -> None:
    with (project / name).open("a") as file:
        file.write("\n")

    assert read_parsed(kept, project, "duckdb") is None


def test_other_settings_are_parsed_again(kept: Path, project: Path) -> None:
    assert read_parsed(kept, project, "bigquery") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-100],
        lambda content: content[:40],
        lambda content: content.replace(b"model.winback", b"model.winbecK", 1),
        lambda _: b"",
        lambda _: b"[]\n",
        lambda _: b"null\nx",
        lambda _: b"\xff\n",
    ],
)
def test_a_damaged_file_is_parsed_again(kept: Path, project: Path, damage: object) -> None:
    file = kept / NAME
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]

    assert read_parsed(kept, project, "duckdb") is None


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, project: Path) -> None:
    (tmp_path / NAME).mkdir()  # a folder in place of the file
    write_parsed(tmp_path, project, "duckdb", FROM_AT, Manifest())

    assert {path.name for path in tmp_path.iterdir()} == {NAME, project.name}


def test_a_folder_that_cannot_be_written_is_no_fault(tmp_path: Path, project: Path) -> None:
    (tmp_path / "file").write_text("")
    write_parsed(tmp_path / "file" / "dbt", project, "duckdb", FROM_AT, Manifest())

    assert read_parsed(tmp_path / "file" / "dbt", project, "duckdb") is None
