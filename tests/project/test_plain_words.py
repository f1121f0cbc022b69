"""Prose in plain words: no forbidden word, and module docstrings that state what a module provides."""

import ast
import subprocess
from pathlib import Path

import pytest

from tests.support.plain_words import forbidden_in

ROOT = Path(__file__).parents[2]
ROOMS = ("core", "warehouse", "scoring", "crm_sync", "jobs", "training", "sandbox", "bench", "docgen")
PROSE = (".py", ".sql", ".yml", ".yaml", ".toml", ".md", ".html")

# Places whose prose is rewritten. A place is a folder or a file.
PLAIN = (
    ".github",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "bench",
    "config",
    "core",
    "crm_sync",
    "dbt",
    "docgen",
    "docs/adr",
    "docs/destinations",
    "docs/explanation",
    "docs/how-to",
    "docs/index.md",
    "docs/marketing",
    "docs/quickstart",
    "docs/reference",
    "docs/runbook",
    "examples",
    "jobs",
    "pyproject.toml",
    "requirements",
    "sandbox",
    "scoring",
    "tests/airflow",
    "tests/conftest.py",
    "tests/core",
    "tests/crm_sync",
    "tests/dbt",
    "tests/end_to_end",
    "tests/jobs",
    "tests/project",
    "tests/resilience",
    "tests/sandbox",
    "tests/scoring",
    "tests/security",
    "tests/support/bigquery_emulator",
    "tests/support/bigquery_environment.py",
    "tests/support/builders",
    "tests/support/challenger.py",
    "tests/support/cloud_tools.py",
    "tests/support/crash",
    "tests/support/crm",
    "tests/support/dbt",
    "tests/support/dbt_replay.py",
    "tests/support/environment.py",
    "tests/support/event_streams.py",
    "tests/support/google_sql",
    "tests/support/gzipped.py",
    "tests/support/leaky_examples.py",
    "tests/support/migrate",
    "tests/support/run_assertions.py",
    "tests/support/secrets_canary.py",
    "tests/support/sync/builders.py",
    "tests/support/sync/hours.py",
    "tests/support/sync/recorder.py",
    "tests/support/sync/tables.py",
    "tests/support/tls.py",
    "tests/support/vendor_specs.py",
    "tests/support/warehouse.py",
    "tests/test_unreachable.py",
    "tests/training",
    "tests/warehouse",
    "training",
    "warehouse",
)

# The list itself, and its tests' examples.
EXCEPT = ("tests/support/plain_words.py", "tests/project/test_plain_words.py")


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "--cached"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.splitlines() if path.endswith(PROSE) and (ROOT / path).exists()]


@pytest.mark.parametrize("place", PLAIN)
def test_no_forbidden_word_is_written(place: str) -> None:
    files = [path for path in _tracked() if path == place or path.startswith(f"{place}/")]
    assert files
    assert [f"{path}:{found}" for path in files if path not in EXCEPT for found in forbidden_in(ROOT / path)] == []


def test_the_list_knows_the_words_in_every_kind_of_file(tmp_path: Path) -> None:
    written = {
        "a.py": '"""Whoever is at it."""\n\nX = f"a user {1} was told"  # begin anew\n',
        "a.sql": "-- one row a user\nselect 'whom' /* whom\nit concerns */ from house {# nobody #}\n",
        "a.yml": "whom: 1\ndescription: users to whom a voucher was given\n# nobody\n",
        "a.md": "Nobody is told.\n",
    }
    found = {}
    for name, text in written.items():
        (tmp_path / name).write_text(text)
        found[name] = [line.split(": ")[:2] for line in forbidden_in(tmp_path / name)]
    assert found == {
        "a.py": [["3", "anew"], ["1", "Whoever"], ["1", "is at it"], ["3", "told"]],
        "a.sql": [["2", "whom"], ["3", "nobody"]],
        "a.yml": [["2", "whom"], ["3", "nobody"]],
        "a.md": [["1", "Nobody"], ["1", "told"]],
    }


def test_every_module_says_what_it_provides_and_asks_nothing() -> None:
    first_lines = {
        str(path.relative_to(ROOT)): (ast.get_docstring(ast.parse(path.read_text())) or "?").splitlines()[0]
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
    }
    assert len(first_lines) > 200
    assert [path for path, line in sorted(first_lines.items()) if "?" in line] == []
