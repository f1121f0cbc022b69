"""The generated reference: it equals the code, and the schemas accept the files that winback accepts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from docgen.check import faults
from docgen.commands import commands
from docgen.reference import reference
from docgen.schemas import FILES
from docgen.stage import stage

ROOT = Path(__file__).parents[2]
SCHEMAS = {file.name: file.schema_path for file in FILES}
EDITED = [
    path
    for folder in ("config", "examples/loan_applications", "examples/salesforce", "sandbox/demo_config")
    for path in sorted((ROOT / folder).glob("*.yml"))
]


def test_every_generated_file_is_what_the_code_gives() -> None:
    differing = [
        str(path.relative_to(ROOT))
        for path, text in reference(ROOT).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert differing == [], "run `make reference` and commit what it writes"


def test_nothing_else_is_in_the_generated_folders() -> None:
    generated = set(reference(ROOT))
    there = {*(ROOT / "config" / "schemas").iterdir(), *(ROOT / "docs" / "reference").rglob("*.md")}
    by_hand = {ROOT / "docs" / "reference" / "glossary.md"}
    assert there - generated - by_hand == set()


def test_the_commands_page_shows_an_example_of_every_command() -> None:
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    shown = set(re.findall(r"^winback ([a-z-]+)", text, re.MULTILINE))
    assert shown == set(commands())


def problems(path: Path, value: Any) -> list[str]:
    schema = json.loads(SCHEMAS[path.stem].read_text())
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{path.name}: {error.json_path}: {error.message}" for error in validator.iter_errors(value)]


@pytest.mark.parametrize("path", EDITED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_that_people_edit_names_its_schema_and_keeps_to_it(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert named
    assert (path.parent / named[1]).resolve() == SCHEMAS[path.stem]
    assert problems(path, yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("funnel", {"session_gap_minuets": 30}),
        ("funnel", {"session_gap_minutes": 0}),
        ("vouchers", {"risk_bands": {"high": 65, "medium": 35}}),
        ("features", {"features": [{"name": "count_events", "type": "numeric"}]}),
        ("crm", {"braze": {"max_batch": 76}}),
        ("training", {"challenge": {"metric": "auc"}}),
    ],
)
def test_a_schema_finds_a_misspelt_key_and_a_value_out_of_range(name: str, change: dict[str, Any]) -> None:
    path = ROOT / "config" / f"{name}.yml"
    assert len(problems(path, {**yaml.safe_load(path.read_text()), **change})) >= 1


def test_links_to_pages_outside_of_docs_hold_within_the_site(tmp_path: Path) -> None:
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "examples/loan_applications/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("[home](README.md)\n" if "/" not in name else "")
    (tmp_path / "docs" / "adr").mkdir(parents=True)
    (tmp_path / "docs" / "adr" / "README.md").write_text(
        "[a](../../CONTRIBUTING.md#rooms)\n```text\n[b](nowhere.md)\n```\n[c](https://host/x.md)\n"
    )
    stage(tmp_path, tmp_path / "out")
    assert (tmp_path / "out" / "adr" / "index.md").read_text() == (
        "[a](../contributing.md#rooms)\n```text\n[b](nowhere.md)\n```\n[c](https://host/x.md)\n"
    )
    assert (tmp_path / "out" / "contributing.md").read_text() == "[home](index.md)\n"


def test_a_link_to_a_file_that_is_not_part_of_the_site_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[settings](../core/settings.py)\n")
    with pytest.raises(ValueError, match=r"index\.md links to \.\./core/settings\.py"):
        stage(tmp_path, tmp_path / "out")


def test_a_dead_link_and_a_file_from_another_host_are_found_in_a_built_site(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "style.css").write_text("")
    (tmp_path / "a" / "index.html").write_text('<h1 id="top">A</h1><a href="../#there">b</a>')
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="style.css"><p id="there"></p><a href="a/#top">a</a><a href="a/#end">a</a>'
        '<a href="b/">b</a><a href="https://host/">c</a><img src="x.png"><script src="https://host/s.js"></script>'
        '<pre class="mermaid">flowchart</pre>'
    )
    assert sorted(faults(tmp_path)) == [
        "index.html: a/#end has no such anchor",
        "index.html: b/ leads nowhere",
        "index.html: loads https://host/s.js from another host",
        "index.html: loads https://unpkg.com/mermaid from another host",
        "index.html: x.png leads nowhere",
    ]
