"""Progress reporters: JSON lines for machines, bars for people, and nothing on stdout."""

import io
import json
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from core import progress as narration
from core.progress import JsonProgress, NullProgress, PlainLines, ProgressReporter, RichProgress, logger, make_reporter

TEN = datetime(2026, 6, 15, 10, tzinfo=UTC)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def tell(reporter: ProgressReporter) -> None:
    """Report a whole run."""
    reporter.step("Building features", window_from=TEN, epoch=3)
    advance = reporter.progress("Scoring", None)
    advance(10)
    advance = reporter.progress("Sending to the CRM", 300)
    advance(75)
    advance(75)
    reporter.progress("Nothing to send", 0)
    reporter.step("Done")
    reporter.close()


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the lines on stderr; stdout must be empty."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    return [json.loads(line) for line in err.splitlines()]


def test_lines_are_one_json_object_a_step_on_stderr_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    tell(JsonProgress())
    lines = said(capsys)
    times = [datetime.fromisoformat(line.pop("time")) for line in lines]
    assert {time.utcoffset() for time in times} == {TEN.utcoffset()}
    assert lines == [
        {"severity": "INFO", "message": "Building features", "window_from": "2026-06-15T10:00:00+00:00", "epoch": 3},
        {"severity": "INFO", "message": "Scoring", "total": None},
        {"severity": "INFO", "message": "Sending to the CRM", "total": 300},
        {"severity": "INFO", "message": "Nothing to send", "total": 0},
        {"severity": "INFO", "message": "Done"},
    ]


@pytest.mark.parametrize("severity", ["info", "warning", "error"])
def test_a_message_of_several_lines_and_letters_stays_one_line(
    severity: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'Some settings cannot be used:\n  "WINBACK_CRM"\u2028 naïve ✓'
    getattr(logger(), severity)(text)
    (line,) = said(capsys)
    assert (line["severity"], line["message"], sorted(line)) == (
        severity.upper(),
        text,
        ["message", "severity", "time"],
    )


def test_silence_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tell(NullProgress())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("is_terminal", "kind"), [(True, RichProgress), (False, JsonProgress)])
def test_bars_are_for_a_terminal_and_lines_for_everything_else(
    is_terminal: bool, kind: type[ProgressReporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if is_terminal else io.StringIO())
    reporter = make_reporter()
    reporter.close()
    assert isinstance(reporter, kind)


@pytest.mark.parametrize("columns", [None, "1", "20", "400"])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_bars_tell_a_whole_run_on_a_screen_of_any_width_or_none(
    columns: str | None, is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    screen = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(narration, "Console", lambda **_: Console(file=screen))
    tell(RichProgress())
    assert capsys.readouterr() == ("", "")
    if columns == "400":
        assert "Sending to the CRM" in screen.getvalue()


def test_bars_may_be_closed_twice_and_before_anything_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narration, "Console", lambda **_: Console(file=Terminal()))
    reporter = RichProgress()
    reporter.close()
    reporter.close()


def test_plain_lines_are_one_line_a_step_with_the_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([10.0, 10.2, 15.0, 75.9, 80.0, 90.4])

    tell(PlainLines(lambda: next(seconds)))

    assert capsys.readouterr() == (
        "",
        "   0 s  Building features\n   5 s  Scoring\n  66 s  Sending to the CRM\n"
        "  70 s  Nothing to send\n  80 s  Done\n",
    )
