"""Shell blocks of README and docs: all that can run here are executed unchanged, on the demo's warehouse in a temporary folder.

Each test run checks the arguments of cloud tools' commands, and that each block is executed or has a reason why not.
`make recipes-test`, which nightly.yml runs, executes all of them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from sandbox.local_crm.server import LocalCrm
from tests.project.test_docs import HOUSE, PAGES, spans
from tests.support.cloud_tools import TOOLS, install, mistake

IS_ALL = os.environ.get("RECIPES") == "all"
ROOMS = ("core", "warehouse", "scoring", "crm_sync", "jobs", "training", "sandbox")
# Text of a page that stands for the reader's own files and addresses, and its replacement in the test.
PLACES = {
    "https://rest.fra-01.braze.eu": "$CRM_URL",
    "WINBACK_CRM_API_KEY=...": "WINBACK_CRM_API_KEY=the-key",
    "events.parquet": "var/demo/events.parquet",
    "users.parquet": "var/demo/users.parquet",
    "redemptions.parquet": "var/demo/redemptions.parquet",
    "winback erase u-0001193            # asks first": "# asks at a terminal: tests/jobs/erasure/test_erase_command.py",
    "winback load --events refused.csv": "sed -i s/NULL/u-1/g refused.csv; winback load --events refused.csv",
}
# Text that a block contains, and the commands that create the state that its page assumes.
BEFORE = {
    "var/copy/": "mkdir -p var/copy; cp var/winback.duckdb var/copy/",
    "winback backfill --until 2026-06-01": "rm -f var/winback.duckdb; winback load --events var/demo/events.parquet",
    "days/*.csv.gz": """mkdir days; gzip > days/1.csv.gz <<'END'
event_id,user_id,event_name,occurred_at,loaded_at
e1,u-1,step_viewed,2026-02-01T10:00:00Z,2026-02-01T10:05:00Z
e2,NULL,step_viewed,2026-02-01T10:00:00Z,2026-02-01T10:05:00Z
END""",
}
# Text that a block contains, and the standard input for it; all other blocks get "y".
TYPED = {"sys.stdin.read()": "select count(*) from marts.crm_sync_runs"}
# Text that a block contains, and its exit code if that is not 0.
EXIT_CODES = {"source freshness": 1}  # the demo's data has been stale since June
# Text that a block contains, and why it is not executed. tests/project/test_docs.py parses its commands.
NOT_HERE = {
    "make ": "another test checks that the targets exist, and CI runs them",
    "bigquery://": "needs a Google Cloud project; tests/dbt/bigquery/test_bigquery_grammar.py tests the SQL",
    "mlflow.internal": "needs a registry server: tests/scoring/test_registry_server.py",
    "path/to/loan_applications": "needs data that is not part of the project: make example",
    "winback rollback": "needs a second champion: tests/scoring/test_promotion.py",
    "winback promote": "needs a second champion: tests/scoring/test_promotion.py",
}


@dataclass(frozen=True)
class Block:
    """A block of shell commands: its page, its line, and its text with continued lines joined."""

    page: Path
    line: int
    text: str

    @property
    def title(self) -> str:
        return f"{self.page.relative_to(HOUSE)}:{self.line}"

    @property
    def why_not(self) -> str | None:
        return next((why for words, why in NOT_HERE.items() if words in self.text), None)


def blocks() -> Iterator[Block]:
    """Yield every block of shell commands, including those within lists."""
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue  # its steps start with a warehouse of an earlier version
        text = page.read_text()
        for found in re.finditer(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
            yield Block(page, text[: found.start()].count("\n") + 1, dedent(found[1]).replace("\\\n", " "))


BLOCKS = list(blocks())


def cloud_commands() -> Iterator[tuple[str, str, list[str]]]:
    """Yield every command of a cloud tool in a block or a sentence: its place, the tool, and its arguments."""
    lines = [(block.title, line) for block in BLOCKS for line in block.text.splitlines()]
    lines += [(str(page.relative_to(HOUSE)), span) for page in PAGES for span in spans(page.read_text())]
    for where, line in lines:
        words = line.split("#")[0].split(maxsplit=1)
        if len(words) == 2 and words[0] in TOOLS:
            yield where, words[0], shlex.split(words[1])


def test_every_command_of_a_cloud_tool_is_one_that_the_tool_has() -> None:
    found = list(cloud_commands())
    assert [(where, problem) for where, tool, words in found if (problem := mistake(tool, words))] == []
    assert {tool for _, tool, _ in found} >= {"gcloud", "docker", "airflow", "mlflow"}


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("gcloud auth application-default login", None),
        ("gcloud auth login-default", "gcloud has no command auth login-default"),
        ("gcloud services enable a.googleapis.com --project=p", None),
        ("gcloud services enable", "gcloud services enable takes 1 to 99 words, not 0"),
        ("bq --location=EU mk --dataset p:d", None),
        ("bq mk --datasets p:d", "bq mk has no option --datasets"),
        ("bq query --use_legacy_sql=false 'select 1'", None),
        ("docker build -t winback .", None),
        ("docker build -t winback", "docker build takes 1 to 1 words, not 0"),
        ("docker run --rm --readonly winback", "docker run has no option --readonly"),
        ("airflow variables set name", "airflow variables set takes 2 to 2 words, not 1"),
    ],
)
def test_a_stand_in_knows_its_tools_words(command: str, problem: str | None) -> None:
    tool, *words = shlex.split(command)
    assert mistake(tool, words) == problem


def test_a_stand_in_on_the_path_refuses_what_the_tool_would(tmp_path: Path) -> None:
    path = f"{install(tmp_path)}{os.pathsep}{os.environ['PATH']}"
    said = [
        subprocess.run(["sh", "-c", command], env={"PATH": path}, capture_output=True, text=True, check=False)
        for command in ("gcloud auth application-default login", "gcloud auth logon")
    ]
    assert [(each.returncode, each.stderr.strip()) for each in said] == [
        (0, ""),
        (64, "gcloud has no command auth logon"),
    ]


def test_every_block_is_executed_or_has_one_reason_not_to_be() -> None:
    executed = [block.title for block in BLOCKS if block.why_not is None]
    assert len(executed) >= 15
    listed = [*NOT_HERE, *PLACES, *BEFORE, *TYPED, *EXIT_CODES]
    unused = [words for words in listed if not any(words in block.text for block in BLOCKS)]
    assert unused == []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state after `make demo`: a copy of the project, its environment, and the demo's warehouse."""
    folder = tmp_path_factory.mktemp("recipes") / "winback"
    shutil.copytree(HOUSE / "dbt", folder / "dbt", ignore=shutil.ignore_patterns("target", "logs"))
    for name in ("config", "examples", *ROOMS):
        shutil.copytree(HOUSE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".venv").symlink_to(Path(sys.prefix))
    subprocess.run(
        [sys.executable, "-m", "jobs", "demo", "--users", "4000"], cwd=folder, check=True, capture_output=True
    )
    return folder


@pytest.mark.skipif(not IS_ALL, reason="takes minutes: make recipes-test, which nightly.yml runs")
@pytest.mark.timeout(0)
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.why_not is None], ids=lambda block: block.title)
def test_a_recipe_runs(block: Block, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "winback"
    shutil.copytree(place, folder, symlinks=True)
    if "load --events" in block.text:
        (folder / "var" / "winback.duckdb").unlink()
        shutil.rmtree(folder / "var" / "models", ignore_errors=True)
    text = "\n".join([*(done for words, done in BEFORE.items() if words in block.text), block.text])
    for theirs, ours in PLACES.items():
        text = re.sub(rf"(?<![\w/]){re.escape(theirs)}", ours, text)
    with LocalCrm(tmp_path / "crm.sqlite", api_key="the-key") as crm:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("WINBACK_", "PYTEST_", "DBT_"))
        } | {
            "PATH": f"{install(tmp_path / 'bin')}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "CRM_URL": crm.url,
            "WINBACK_CRM_URL": crm.url,
            "WINBACK_CRM_API_KEY": "the-key",
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        }
        # In one shell, so that `cd` and `export` take effect.
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder / "dbt" if block.text.startswith("../.venv") else folder,
            env=environment,
            input=next((typed for words, typed in TYPED.items() if words in block.text), "y\n"),
            capture_output=True,
            text=True,
            check=False,
        )
    expected = next((code for words, code in EXIT_CODES.items() if words in block.text), 0)
    assert done.returncode == expected, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
