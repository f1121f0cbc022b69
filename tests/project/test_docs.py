"""README and docs: the commands, settings, links, files and words in them are correct."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest
from pydantic import SecretStr

from core.settings import Settings
from crm_sync.destinations import braze
from crm_sync.destinations.hubspot import properties as hubspot_properties
from crm_sync.destinations.salesforce import fields as salesforce_fields
from crm_sync.field_mapping import Kind, load_fields
from jobs.cli.app import cli
from scoring.policy import ELIGIBILITY_REASONS

HOUSE = Path(__file__).parents[2]
SEGMENTS = HOUSE / "docs" / "marketing" / "fields.md"
REFERENCE = HOUSE / "docs" / "reference"
PAGES = [
    *(HOUSE / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((HOUSE / "docs").rglob("*.md")),
    *sorted((HOUSE / "examples").rglob("*.md")),
]
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
# The glossary has the words to use instead. Others call an arm of an experiment `control`; here it is the holdout.
FORBIDDEN = ["bookmark", "cursor", "last_run", "risk score", "connector", "control group", "control arm"]
# Folders that commands create; they are not in the repository.
MADE_LATER = {"var", ".venv"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOUSE)))


def blocks(text: str) -> list[str]:
    """Return the fenced blocks of shell commands, with continued lines joined."""
    return [block.replace("\\\n", " ") for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def spans(text: str) -> list[str]:
    """Return the code spans in running text."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def lines(page: Path) -> list[str]:
    """Return all text that a reader could type: the lines of the blocks, and the code spans."""
    text = page.read_text()
    return [*(line for block in blocks(text) for line in block.splitlines()), *spans(text)]


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of every `winback ...` in a page."""
    for line in lines(page):
        if "winback" not in line:
            continue
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words and Path(words[0]).name == "winback":
            yield words[1:]


def parse(arguments: list[str]) -> None:
    """Parse a command line with click, without running it. In running text a name alone may stand for the command."""
    context = click.Context(cli, info_name="winback")
    name, command, rest = cli.resolve_command(context, list(arguments))
    assert command is not None
    if rest:
        command.make_context(name, rest, parent=context)


def tracked(suffixes: tuple[str, ...]) -> list[Path]:
    """Every file of the repository with one of these suffixes, but the tests that quote dead links."""
    listed = subprocess.run(["git", "ls-files"], cwd=HOUSE, capture_output=True, text=True, check=True)
    paths = [HOUSE / name for name in listed.stdout.splitlines() if name.endswith(suffixes)]
    return [path for path in paths if path.exists() and path.name not in ("test_reference.py", "stage.py")]


def headings(page: Path) -> set[str]:
    """Return the anchors of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def tables(page: Path, first_column: str) -> list[list[str]]:
    """The rows of all tables whose first column has this name."""
    texts = [text.split("\n\n", 1)[0] for text in page.read_text().split(f"\n| {first_column} |")[1:]]
    lines = [line for text in texts for line in text.splitlines()[2:]]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in lines]


def table(page: Path, first_column: str) -> list[list[str]]:
    """Return the rows of the first table whose first column has this name."""
    after = page.read_text().split(f"\n| {first_column} |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in after.splitlines()[2:]]


def test_the_tables_of_settings_in_the_reference_are_the_settings() -> None:
    def written(default: object) -> str:
        return default.get_secret_value() if isinstance(default, SecretStr) else str(default)

    assert sorted(tables(REFERENCE / "settings.md", "variable")) == sorted(
        [f"`WINBACK_{name.upper()}`", f"`{written(field.default)}`".replace("``", ""), field.description]
        for name, field in Settings.model_fields.items()
    )


def test_the_table_of_commands_in_the_reference_has_every_command() -> None:
    rows = table(REFERENCE / "commands.md", "command")
    listed = {re.sub(r"\[`winback (.*)`\].*", r"\1", row[0]) for row in rows}
    assert listed == set(cli.list_commands(click.Context(cli)))


def test_marketings_page_tells_of_every_field_and_what_to_create_for_it() -> None:
    kinds = load_fields(HOUSE / "config" / "crm_fields.yml").kinds
    assert [row[0].strip("`") for row in table(SEGMENTS, "field")] == list(kinds)
    rows = {row[0].strip("`"): row[1:] for row in table(SEGMENTS, "field | Braze")}
    listed = [{"name": name, "data_type": rows[name][0].lower()} for name in kinds]
    assert braze.judged(listed, kinds).says == "Braze has all 9 attributes with fitting types"
    assert {name: rows[name][1].split(",")[0] for name in kinds} == hubspots_types()
    salesforces = load_fields(HOUSE / "examples" / "salesforce" / "crm_fields.yml").kinds
    cells = {name: rows[ours][3].split(",")[0] for ours, name in zip(kinds, salesforces, strict=True)}
    assert cells == salesforces_types(salesforces)


def hubspots_types() -> dict[str, str]:
    """Return HubSpot's names of the property types in the commands of winback doctor, by property."""
    names = {
        ("number", "number"): "Number",
        ("string", "text"): "Single-line text",
        ("string", "textarea"): "Multi-line text",
        ("bool", "booleancheckbox"): "Single checkbox",
        ("datetime", "date"): "Date and time picker",
    }
    kinds = load_fields(HOUSE / "config" / "crm_fields.yml").kinds
    (finding,) = hubspot_properties.judged({"results": []}, kinds, "the_id", "https://crm.example", "a_group")
    made = json.loads(shlex.split(finding.do[1])[-1])["inputs"]
    return {each["name"]: names[each["type"], each["fieldType"]] for each in made if each["name"] != "the_id"}


def salesforces_types(kinds: Mapping[str, Kind]) -> dict[str, str]:
    """Return Salesforce's names of the field types in the commands of winback doctor, by field."""
    names = {"Number": "Number", "Text": "Text (255)", "Checkbox": "Checkbox", "DateTime": "Date/Time"}
    empty = {"fields": [], "createable": True, "updateable": True}
    _, finding = salesforce_fields.judged(empty, kinds, "Contact", "Winback_User_Id__c", "v62.0")
    made = [json.loads(shlex.split(command)[-1]) for command in finding.do[1:]]
    return {each["FullName"].removeprefix("Contact."): names[each["Metadata"]["type"]] for each in made}


def test_marketings_page_explains_every_reason_of_the_policy() -> None:
    assert set(ELIGIBILITY_REASONS) <= {row[0].strip("`") for row in table(REFERENCE / "reason-codes.md", "code")}
    assert "../reference/reason-codes.md#voucher_reason" in SEGMENTS.read_text()


def test_own_data_goes_into_places_of_its_own_before_it_is_loaded() -> None:
    section = (HOUSE / "docs" / "how-to" / "load-your-data.md").read_text().split("\n", 1)[1]
    assert "demo" in section.lstrip().splitlines()[0]
    before, loads, _ = next(block for block in blocks(section) if "winback load" in block).partition("winback load ")
    first = before.splitlines()[-1]
    assert loads
    assert re.match(r"export WINBACK_WAREHOUSE=duckdb:///\S+ WINBACK_MODELS=\S+", first)
    for name in ("warehouse", "models"):
        assert f"={Settings.model_fields[name].default}" not in first


@every_page
def test_every_command_in_a_page_parses(page: Path) -> None:
    for arguments in commands(page):
        if arguments:
            parse(arguments)


def test_a_command_or_option_that_does_not_exist_is_noticed() -> None:
    for arguments in (
        ["hourli"],
        ["run", "--untill", "2026-06-01"],
        ["backfill", "--until", "TIME"],
        ["backfill", "--json"],
    ):
        with pytest.raises(click.UsageError):
            parse(arguments)


def test_the_pages_show_every_command_but_the_demo_in_use() -> None:
    used = {arguments[0] for page in PAGES for arguments in commands(page) if arguments}
    assert used == set(cli.list_commands(click.Context(cli)))


@every_page
def test_every_make_target_in_a_page_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (HOUSE / "Makefile").read_text(), re.MULTILINE))
    for line in lines(page):
        words = line.split("#")[0].split()
        if words and words[0] == "make":
            named = {word for word in words[1:] if "=" not in word}
            assert named <= targets, f"no such target in {line!r}"


@every_page
def test_every_relative_link_and_image_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in headings(there), target


@every_page
def test_every_file_named_in_a_page_exists(page: Path) -> None:
    for span in spans(page.read_text()):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/[\w.-]*", span) and span.split("/")[0] not in MADE_LATER:
            assert (HOUSE / span).exists(), span


@every_page
def test_no_page_uses_a_forbidden_synonym(page: Path) -> None:
    text = page.read_text().lower()
    assert [word for word in FORBIDDEN if re.search(rf"\b{word}s?\b", text)] == []


def test_the_changelog_tells_of_the_version_in_pyproject() -> None:
    assert f"\n## [{PROJECT['version']}]" in (HOUSE / "CHANGELOG.md").read_text()


def test_every_dependency_has_its_reason() -> None:
    groups = tomllib.loads((HOUSE / "pyproject.toml").read_text())["dependency-groups"]
    extras = PROJECT["optional-dependencies"].values()
    wanted = {
        re.split(r"[<>=\[]", line)[0]
        for group in (PROJECT["dependencies"], *extras, *groups.values())
        for line in group
    }
    page = (HOUSE / "docs" / "adr" / "0004-dependencies.md").read_text()
    assert [name for name in sorted(wanted) if not re.search(rf"(?<![\w-]){name}(?![\w-])", page)] == []


def test_every_decision_is_in_the_index() -> None:
    folder = HOUSE / "docs" / "adr"
    index = (folder / "README.md").read_text()
    assert [path.name for path in sorted(folder.glob("0*.md")) if f"]({path.name})" not in index] == []


def test_the_pictures_are_small_enough_to_load_at_once() -> None:
    sizes = {path.name: path.stat().st_size for path in (HOUSE / "docs" / "images").iterdir()}
    assert {name for name, size in sizes.items() if size > 150_000} == set()


def test_every_page_that_the_code_names_exists() -> None:
    """In messages, docstrings, comments and SQL: a reader is sent to a page, and to a heading of it."""
    named = [
        (path, target)
        for path in tracked((".py", ".sql", ".yml", ".html", ".toml", ".in"))
        for target in re.findall(r"(?<![\w/.])(?:docs/[\w/-]+\.md|[A-Z]+\.md)(?:#[\w-]+)?", path.read_text())
    ]
    assert len(named) > 30
    dead = []
    for path, target in named:
        page, _, anchor = target.partition("#")
        if not (HOUSE / page).exists() or (anchor and anchor not in headings(HOUSE / page)):
            dead.append(f"{path.relative_to(HOUSE)}: {target}")
    assert dead == []


def messages() -> str:
    """Every text of the code that a command may print, one a line; what is filled in is left out."""
    texts = []
    for room in ("core", "jobs", "crm_sync", "scoring", "warehouse"):
        for path in sorted((HOUSE / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    texts.append("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return "\n".join(texts)


def test_a_message_that_the_runbook_quotes_is_one_that_the_code_prints() -> None:
    """A quoted message has `...` where something is filled in."""
    folder = HOUSE / "docs" / "runbook"
    quoted = [row[0].replace("`", "") for row in table(folder / "exit-code-2.md", "the message says")]
    for page in sorted(folder.glob("*.md")):
        text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        quoted += re.findall(r'"([^"\n]{6,})"', text)
    assert len(quoted) > 25
    printed = messages()
    parts = [(quote, part.strip(" .")) for quote in quoted for part in re.split(r"\.\.\.|\(.*?\)", quote)]
    assert [quote for quote, part in parts if len(part) > 3 and part not in printed] == []


def test_the_runbook_lists_each_of_its_pages() -> None:
    folder = HOUSE / "docs" / "runbook"
    index = (folder / "index.md").read_text()
    assert [path.name for path in sorted(folder.glob("*.md")) if f"]({path.name}" not in index] == ["index.md"]


def test_the_site_has_each_page_in_its_navigation() -> None:
    shown = set(re.findall(r"([\w/.-]+\.md)$", (HOUSE / "mkdocs.yml").read_text(), re.MULTILINE))
    pages = {str(path.relative_to(HOUSE / "docs")) for path in (HOUSE / "docs").rglob("*.md")}
    assert {page.replace("README.md", "index.md") for page in pages} - shown == set()


@every_page
def test_a_page_s_prose_has_lines_of_at_most_100_columns(page: Path) -> None:
    """Tables are one line a row, and code is as it is."""
    if page.is_relative_to(REFERENCE):
        pytest.skip("generated")
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    long = [
        line for line in text.splitlines() if len(line) > 100 and not line.lstrip().startswith(("|", "![", "Sources:"))
    ]
    assert [line for line in long if "](http" not in line] == []


def test_the_image_holds_the_rooms_of_the_job_and_no_other() -> None:
    dockerfile = (HOUSE / "Dockerfile").read_text()
    copied = set(re.findall(r"^COPY (\w+) \1$", dockerfile, re.MULTILINE))
    assert copied == {"core", "scoring", "crm_sync", "warehouse", "jobs", "dbt", "config"}
    allowed = set((HOUSE / ".dockerignore").read_text().splitlines())
    assert {f"!{room}" for room in copied} <= allowed
