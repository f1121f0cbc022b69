"""`winback erase` as a command: what it prints, what it must not print, and its notes on what remains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from core.settings import Settings
from jobs.cli.app import cli
from jobs.erasure.residual_data import stays
from tests.support.builders.erase import eligible
from tests.support.command_line import Finished, run_process
from tests.support.environment import API_KEY, World
from tests.support.run_assertions import restore_crm, take_crm_down

ROOT = Path(__file__).parents[3]


def winback(world: World, *arguments: str) -> Finished:
    environment = {
        "WINBACK_WAREHOUSE": f"duckdb:///{world.folder / 'winback.duckdb'}",
        "WINBACK_CRM_URL": world.crm.url,
        "WINBACK_CRM_API_KEY": API_KEY,
        "WINBACK_RETRY_BUDGET_SECONDS": "0.1",
    }
    return run_process(environment, "erase", *arguments)


def test_the_command_leaves_with_1_until_all_is_done_and_never_prints_the_id(told: World) -> None:
    user = eligible(told)
    take_crm_down(told)
    failed = winback(told, user, "--yes")
    restore_crm(told)
    done = winback(told, user, "--yes", "--json")

    assert failed.returncode == 1
    assert "deferred" in failed.stdout
    assert "What remains" in failed.stdout
    told_last = json.loads(failed.stderr.splitlines()[-1])["message"]
    assert "within 0.1 s: HTTP 503. The user is not erased in the CRM yet" in told_last
    assert (done.returncode, json.loads(done.stdout)["problem"]) == (0, None)
    assert {row["step"]: row["outcome"] for row in json.loads(done.stdout)["receipts"]}["crm"] == "deleted"
    assert user not in failed.stdout + failed.stderr + done.stdout + done.stderr


def test_an_id_that_nobody_has_is_told_in_few_lines(told: World) -> None:
    done = winback(told, "nobody", "--yes")

    assert done.returncode == 0
    assert "No table had a row of this user. Check the id." in done.stdout
    assert len(done.stdout.split("What remains")[0].splitlines()) < 12


@pytest.mark.parametrize(
    ("arguments", "told_to"),
    [
        (["canary"], "Pass --yes"),
        (["--yes"], "Write winback erase USER"),
        (["--yes", "canary", "of a user"], "Write winback erase USER"),
        (["--yes", "--canary"], "Write winback erase USER"),
        (["--yes", ""], "The user's id is empty"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said_without_repeating_it(arguments: list[str], told_to: str) -> None:
    refused = CliRunner().invoke(cli, ["erase", *arguments])

    assert refused.exit_code == 2
    assert told_to in refused.output
    assert "canary" not in refused.output


@pytest.mark.parametrize("crm", get_args(Settings.model_fields["crm"].annotation))
def test_what_stays_is_told_of_every_crm_and_both_warehouses(crm: str) -> None:
    assert any(crm in sentence.lower() for sentence in stays(crm, is_bigquery=True))
    assert any("7 days" in sentence for sentence in stays(crm, is_bigquery=True))
    assert any("bytes" in sentence for sentence in stays(crm, is_bigquery=False))
