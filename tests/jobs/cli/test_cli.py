"""Commands: their output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
import requests

from jobs.cli.app import RENAMED
from tests.support.command_line import Finished, run_here, run_process
from tests.support.environment import API_KEY, World, at

HOUR = at(1).isoformat()


def variables(world: World, **changes: str) -> dict[str, str]:
    return {
        "WINBACK_WAREHOUSE": f"duckdb:///{world.folder / 'winback.duckdb'}",
        "WINBACK_MODELS": str(world.folder / "models"),
        "WINBACK_REGISTRY": "none",
        "WINBACK_DBT_TARGET": str(world.folder / "dbt"),
        "WINBACK_CRM_URL": world.crm.url,
        "WINBACK_CRM_API_KEY": API_KEY,
        "WINBACK_RETRY_BUDGET_SECONDS": "0.1",
        "WINBACK_MAX_WATERMARK_AGE_SECONDS": "0",  # the data is from May 2026, so its age must not matter
        **changes,
    }


def winback(world: World, *arguments: str, **changes: str) -> Finished:
    return run_here(variables(world, **changes), *arguments)


def set_fault(world: World, **fault: Any) -> None:
    requests.post(f"{world.crm.url}/_control/faults", json=fault, timeout=5).raise_for_status()


def test_a_run_prints_one_object_on_stdout_and_lines_on_stderr(world: World) -> None:
    done = run_process(variables(world), "run", "--until", HOUR, "--json")

    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert answer["sync"]["differing"] == answer["sync"]["delivered"] + sum(answer["sync"]["suppressed"].values())
    assert answer["sync"]["delivered"] > 0
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["message"] for line in lines] == [
        "Building features",
        "Scoring",
        "Building the audience",
        "Sending to the CRM",
        "Run ended",
    ]
    assert lines[-1]["epoch"] == 1


def test_a_crm_that_is_down_leaves_with_1_and_says_that_the_rest_waits(world: World) -> None:
    set_fault(world, kind="status", status=503, times=1_000)
    done = winback(world, "run", "--until", HOUR)

    assert done.returncode == 1
    assert "The CRM did not take the request within 0.1 s" in json.loads(done.stderr.splitlines()[-1])["message"]
    assert "deferred" in done.stdout


def test_a_wrong_key_leaves_with_2_and_names_the_setting_but_not_the_key(world: World) -> None:
    done = winback(world, "run", "--until", HOUR, WINBACK_CRM_API_KEY="canary-of-a-key")

    assert done.returncode == 2
    assert "WINBACK_CRM_API_KEY" in json.loads(done.stderr.splitlines()[-1])["message"]
    assert "canary-of-a-key" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "changes", "told"),
    [
        (["run"], {"WINBACK_CRM_URL": "http://crm.example"}, "WINBACK_CRM_URL: must be https"),
        (["run"], {"WINBACK_WAREHOUSE": "bigquery://some-project"}, "must be bigquery://project/dataset_prefix"),
        (["run", "--until", "soon"], {}, "is not a valid time"),
        (["run", "--until", "2020-01-01"], {}, "before the watermark"),
        (["run"], {"WINBACK_CONFIG": "/nowhere"}, "funnel.yml does not exist in /nowhere/"),
        (["backfill", "--until", "2026-01-01"], {}, "is committed already"),
        (["promote", "unknown"], {}, "complete model bundle unknown does not exist. Available: 2026"),
        (["load"], {}, "Name at least one file"),
        (["load", "--events", "nothing.csv"], {}, "nothing.csv: the file does not exist"),
        (["fly"], {}, "No such command"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence_and_leaves_with_2(
    world: World, arguments: list[str], changes: dict[str, str], told: str
) -> None:
    done = winback(world, *arguments, **changes)

    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_most_users_rejected_leaves_with_3(world: World) -> None:
    until = at(24).isoformat()
    winback(world, "run", "--until", until, "--dry-run")
    users = [row["user_id"] for row in world.query("select distinct user_id from marts.fct_scoring_candidates")]
    set_fault(world, kind="row_error", external_ids=users)

    done = winback(world, "run", "--until", until)

    assert done.returncode == 3
    assert "winback dead-letters retry" in done.stderr
    assert not [user for user in users if user in done.stdout + done.stderr]


@pytest.mark.data_tests
def test_no_user_is_named_in_anything_a_command_prints_or_dbt_writes(world: World) -> None:
    commands = (["rebuild"], ["audit"], ["status"], ["dead-letters"], ["train"])
    done = [run_process(variables(world), "run", "--until", HOUR), *(winback(world, *each) for each in commands)]
    printed = "".join(each.stdout + each.stderr for each in done)
    written = "".join(path.read_text(errors="replace") for path in (world.folder / "dbt").rglob("*") if path.is_file())

    users = world.query("select distinct user_id from raw.users")
    assert not [row for row in users if row["user_id"] in printed or row["user_id"] in written]


def test_an_audit_leaves_with_0_when_no_row_differs_and_with_3_when_one_does(world: World) -> None:
    healthy = winback(world, "audit", "--percent", "5", "--json")
    world.query("update intermediate.int_sessions set count_events = count_events + 1")
    damaged = winback(world, "audit", "--percent", "5")

    assert healthy.returncode == 0
    assert [table["count_rows_differing"] for table in json.loads(healthy.stdout)["tables"]] == [0, 0, 0, 0, 0]
    assert damaged.returncode == 3
    assert "Rows differ from the raw events: int_sessions" in json.loads(damaged.stderr.splitlines()[-1])["message"]
    assert "int_sessions" in damaged.stdout


def test_refused_credentials_leave_a_report_that_says_so(world: World) -> None:
    winback(world, "run", "--until", HOUR, WINBACK_CRM_API_KEY="wrong")

    reports = world.query("select epoch, count_delivered, stopped_because from ops.reports")
    assert [(r["epoch"], r["count_delivered"]) for r in reports] == [(1, 0)]
    assert "WINBACK_CRM_API_KEY" in reports[0]["stopped_because"]


def test_a_renamed_file_is_named_with_its_old_name(world: World) -> None:
    renamed = world.folder / "other-name.duckdb"
    (world.folder / "winback.duckdb").rename(renamed)

    done = winback(world, "status", WINBACK_WAREHOUSE=f"duckdb:///{renamed}")

    assert done.returncode == 2
    assert "other-name.duckdb was created as winback.duckdb" in done.stderr


def test_status_of_an_empty_file_creates_no_table(tmp_path: Path) -> None:
    file = tmp_path / "empty.duckdb"
    duckdb.connect(str(file)).close()
    content = file.read_bytes()
    environment = {
        "WINBACK_WAREHOUSE": f"duckdb:///{file}",
        "WINBACK_MODELS": str(tmp_path / "models"),
        "WINBACK_REGISTRY": "none",
    }

    done = run_here(environment, "status", "--json")

    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["watermark"], answer["count_epochs"], answer["pending"], answer["reports"]) == (None, 0, 0, [])
    assert file.read_bytes() == content


def test_a_path_where_nothing_is_stays_empty(world: World) -> None:
    done = winback(world, "status", WINBACK_WAREHOUSE=f"duckdb:///{world.folder / 'typo.duckdb'}")

    assert done.returncode == 2
    assert "The warehouse typo.duckdb does not exist" in done.stderr
    assert not (world.folder / "typo.duckdb").exists()


@pytest.mark.parametrize(
    "command",
    [
        *("load", "backfill", "train", "promote", "rollback", "run", "rebuild", "audit", "status", "dead-letters"),
        *("local-crm", "demo", "backtest"),
    ],
)
def test_every_command_has_help_with_an_example(world: World, command: str) -> None:
    done = winback(world, command, "--help")

    assert done.returncode == 0
    assert f"  winback {command}" in done.stdout.split("Options:")[0]
    assert "--json" in done.stdout


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_earlier_name_of_a_command_works_with_a_warning_and_is_not_listed(world: World, old: str, new: str) -> None:
    done = winback(world, old, "--help")

    assert done.returncode == 0
    assert done.stdout.replace(f"winback {old}", f"winback {new}") == winback(world, new, "--help").stdout
    assert f"winback {old} is called winback {new} now" in done.stderr
    assert f"\n  {old} " not in winback(world, "--help").stdout


def test_an_earlier_name_of_an_option_works(world: World) -> None:
    assert winback(world, "run", "--accept-audience", "--until", "2020-01-01").stderr.count("before the watermark") == 1
