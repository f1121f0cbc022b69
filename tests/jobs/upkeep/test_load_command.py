"""`winback load`: its summary of the raw tables, and how they match funnel.yml."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobs.cli.app import cli
from tests.support.builders.loading import EVENTS, USERS, event, lines, user


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/funnel.yml").write_text(
        "completion_events: [filing_submitted]\nsteps: [start, end]\nevent_kinds: {input: [field_saved]}"
    )
    monkeypatch.setenv("WINBACK_WAREHOUSE", f"duckdb:///{tmp_path}/winback.duckdb")
    monkeypatch.setenv("WINBACK_CONFIG", str(tmp_path / "config"))
    days = tmp_path / "days"
    days.mkdir()
    header = f"{EVENTS},step"
    first = [event(event_id=f"a{n}", user_id=f"0{n}", event_name="field_saved") + ",start" for n in range(3)]
    (days / "1.csv").write_text(lines(header, *first))
    (days / "2.csv").write_text(
        lines(header, event(event_id="b", event_name="Filing-Submited", user_id="x") + ",begin")
    )
    (tmp_path / "users.csv").write_text(lines(USERS, user(user_id="00"), user(user_id="1")))
    return tmp_path


def answer(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["load", *arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_the_answer_has_the_tables_and_the_summary(folder: Path) -> None:
    told = answer(
        "--events", f"{folder}/days/*.csv", "--events", f"{folder}/days/1.csv", "--users", f"{folder}/users.csv"
    )
    assert (told["events"]["count_new"], told["users"]["count_new"], told["files"]) == (4, 2, {"events": 2, "users": 1})
    assert told["summary"] == {
        "events_by_name": {"field_saved": {"new": 3, "all": 3}, "Filing-Submited": {"new": 1, "all": 1}},
        "count_events": 4,
        "first_occurred_at": "2026-02-01T10:00:00+00:00",
        "last_occurred_at": "2026-02-01T10:00:00+00:00",
        "count_users": 4,
        "count_users_with_profile": 1,
        "count_users_without_profile": 3,
        "count_users_known_in_time": 1,
        "count_users_respelled": 1,
        "funnel": {
            "unknown_events": {"Filing-Submited": 1},
            "unknown_steps": {"begin": 1},
            "absent_events": ["filing_submitted"],
            "absent_steps": ["end"],
            "looks_like": {"filing_submitted": "Filing-Submited"},
        },
        "funnel_problem": None,
    }


def test_the_screen_says_it_in_words(folder: Path) -> None:
    done = CliRunner().invoke(
        cli, ["load", "--events", f"{folder}/days", "--users", f"{folder}/users.csv"], catch_exceptions=False
    )
    for line in (
        "4 events from 2026-02-01 10:00 to 2026-02-01 10:00 UTC",
        "1 of 4 users with an event have a profile known at their last one; 3 have no profile in raw.users; "
        "1 of them have one under another spelling of the id, such as 000123 or 123.0 for 123.",
        "events that are not in funnel.yml: Filing-Submited",
        "steps of funnel.yml that never occur: end",
        "filing_submitted never occurs: is it Filing-Submited?",
    ):
        assert line in done.stdout.splitlines()


def test_a_second_load_tells_what_is_new_beside_what_is_there(folder: Path) -> None:
    answer("--events", f"{folder}/days/1.csv")
    told = answer("--events", f"{folder}/days/2.csv")
    assert told["summary"]["events_by_name"] == {
        "field_saved": {"new": 0, "all": 3},
        "Filing-Submited": {"new": 1, "all": 1},
    }


def test_data_loads_also_while_the_funnel_cannot_be_read(folder: Path) -> None:
    (folder / "config/funnel.yml").write_text("")
    told = answer("--events", f"{folder}/days/1.csv")["summary"]
    assert (told["count_events"], told["funnel"]) == (3, None)
    assert told["funnel_problem"].startswith("funnel.yml is not a valid funnel file: it is empty")


def test_refused_rows_go_where_the_option_says(folder: Path) -> None:
    (folder / "days/2.csv").write_text(lines(EVENTS, event(event_id="NULL"), event(event_id="c")))
    told = answer("--events", f"{folder}/days", "--set-aside", f"{folder}/refused.csv")
    assert (told["events"]["count_new"], told["events"]["count_set_aside"]) == (4, 1)
    assert told["set_aside"] == f"{folder}/refused.csv"
    assert (folder / "refused.csv").stat().st_mode & 0o077 == 0


def test_a_file_without_rows_is_named(folder: Path) -> None:
    (folder / "days/3.csv").write_text(lines(EVENTS))
    assert answer("--events", f"{folder}/days")["events"]["empty_files"] == ["3.csv"]
    done = CliRunner().invoke(cli, ["load", "--events", f"{folder}/days"], catch_exceptions=False)
    assert "events: no row below the header in 3.csv" in done.stdout.splitlines()
