"""`winback doctor` as a command: its output and exit codes."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner

from jobs.cli.app import cli
from tests.support.bigquery_emulator.process import PROJECT, Emulator
from tests.support.environment import API_KEY, World
from warehouse.tables import APP_EVENTS


def run(world: World, *arguments: str, **changes: str) -> Any:
    environment = {
        "WINBACK_WAREHOUSE": f"duckdb:///{world.folder / 'winback.duckdb'}",
        "WINBACK_MODELS": str(world.folder / "models"),
        "WINBACK_REGISTRY": "none",
        "WINBACK_DBT_TARGET": str(world.folder / "dbt"),
        "WINBACK_CRM_URL": world.crm.url,
        "WINBACK_CRM_API_KEY": API_KEY,
        "WINBACK_MAX_WATERMARK_AGE_SECONDS": "0",  # the data is from May 2026, so its age must not matter
        **changes,
    }
    return CliRunner().invoke(cli, ["doctor", *arguments], env=environment, standalone_mode=False)


def test_the_help_has_an_example_and_the_exit_codes(world: World) -> None:
    told = run(world, "--help").stdout

    assert "  winback doctor --json\n" in told
    assert "Exit codes: 0 no check failed, 2" in told


def test_the_command_leaves_with_0_where_nothing_failed(world: World) -> None:
    done = run(world)

    assert done.exception is None
    assert "✓  history" in done.stdout
    assert done.stdout.endswith("Nothing to do.\n")


def test_the_command_leaves_with_2_and_numbers_what_to_do(world: World) -> None:
    (world.folder / "models" / "champion").unlink()
    done = run(world)

    assert (done.exception.exit_code, "these failed: model." in str(done.exception)) == (2, True)
    assert done.stdout.endswith("What to do\n1. Train one, once there is history:\n   winback train\n")


def test_the_command_prints_one_object(world: World) -> None:
    answer = json.loads(run(world, "--json").stdout)

    assert answer["count_failed"] == 0
    assert answer["findings"][1] == {"check": "funnel.yml", "state": "ok", "says": "can be used", "do": []}


def test_wrong_settings_are_a_finding(world: World) -> None:
    done = run(world, "--json", WINBACK_CRM_URL="ftp://canary")

    assert [(one["check"], one["state"]) for one in json.loads(done.stdout)["findings"]] == [("settings", "failed")]
    assert (done.exception.exit_code, "canary" in done.stdout) == (2, False)


def test_long_commands_are_printed_on_one_line(emulator: Emulator, world: World) -> None:
    done = run(
        world,
        WINBACK_WAREHOUSE=f"bigquery://{PROJECT}/nowhere",
        WINBACK_BIGQUERY_ENDPOINT=emulator.url,
        WINBACK_BIGQUERY_STORAGE_ENDPOINT=emulator.storage_endpoint,
        WINBACK_BIGQUERY_LOCATION="EU",
    )

    assert (
        "   bq --project_id=local --location=EU query --use_legacy_sql=false "
        "'GRANT `roles/bigquery.dataEditor` ON SCHEMA `local`.`nowhere_ops` TO \"serviceAccount:SERVICE_ACCOUNT\"'\n"
    ) in done.stdout
    assert APP_EVENTS.name not in done.stdout
