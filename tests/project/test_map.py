"""Map for contributors: every room and place in it exists, and folders hold few files."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, without its header."""
    (table,) = re.findall(rf"^## {re.escape(heading)}\n\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_every_place_where_something_goes_exists() -> None:
    places = {span for row in rows("Where does it go?") for span in re.findall(r"`([\w./-]+/[\w./-]*)`", " ".join(row))}
    assert len(places) > 15
    assert [place for place in sorted(places) if not (ROOT / place).exists()] == []


def test_the_table_of_rooms_has_every_room() -> None:
    rooms = {row[0].strip("`/") for row in rows("Rooms")}
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    assert rooms == {*python, "dbt", "bench", "docgen", "tests"}


def test_a_folder_of_code_holds_few_files_flat() -> None:
    """The limit is about a dozen. A folder with more files should be divided."""
    rooms = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["root_packages"]
    counts = {
        str(folder.relative_to(ROOT)): len([file for file in folder.glob("*.py") if file.name != "__init__.py"])
        for room in rooms
        for folder in [ROOT / room, *(path for path in (ROOT / room).rglob("*") if path.is_dir())]
    }
    assert {folder: count for folder, count in counts.items() if count > 14} == {}
