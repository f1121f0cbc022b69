"""Module docstrings outside the tests are statements of what a module provides."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("core", "warehouse", "scoring", "crm_sync", "jobs", "training", "sandbox", "bench")


def test_every_module_says_what_it_provides_and_asks_nothing() -> None:
    first_lines = {
        str(path.relative_to(ROOT)): (ast.get_docstring(ast.parse(path.read_text())) or "?").splitlines()[0]
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
    }
    assert len(first_lines) > 200
    assert [path for path, line in sorted(first_lines.items()) if "?" in line] == []
