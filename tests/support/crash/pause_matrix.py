"""Two concurrent runs: the first pauses at an effect while another runs, then continues. The laws must hold after a third run.

    python -m tests.support.crash.pause_matrix [--warehouse duckdb|bigquery] [--modes free,expired,held,file] \
        [--places 'after build audience']

On BigQuery (the emulator) the first run is a process that is paused by SIGSTOP. Only one process can hold a DuckDB file. There
the second run happens within the first, at the same point, over a warehouse that claims to allow other processes.

    free      without a lease (WINBACK_LEASE_SECONDS=0): both work, and the work of one is lost
    expired   the second comes after the first's lease expired: it takes over, and the first stops when it notices
    held      the second comes before that: it names the holder and exits
    file      plain DuckDB: the first sleeps for --sleep-seconds, and the second names the holder of the file and exits
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

from core.errors import RunInProgressError, WinbackError
from tests.support.crash.environment import FIRST_RUN, HOURS, Base, Trial, make_base, workshop
from tests.support.crash.subprocesses import Child
from tests.support.invariants import Facts, Verdict, judged
from warehouse.duckdb.warehouse import DuckDBWarehouse

PLACES = (
    "after build features",
    "after append ops.decisions",
    "after append_once ops.runs",
    "before build audience",
    "after build audience",
    "before append ops.deliveries",
    "before request POST /users/track",
    "after request POST /users/track",
    "before append ops.reports",
)
MODES = ("free", "expired", "held", "file")
# Tables that depend only on the raw events, whichever run built them.
FROM_EVENTS = ("sessions", "exits")


@dataclass
class Case:
    """One pause: the results of the first and the second run, and of the laws after the third."""

    place: str
    mode: str
    first: str = ""
    second: str = ""
    laws: dict[str, list[int]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


def pause(base: Base, place: str, mode: str, twin: Facts, sleep_seconds: float = 0) -> Case:
    """Pause a run at a place, do another one, resume the first, and do a third one."""
    case = Case(place, mode)
    lease_seconds = 0 if mode == "free" else 900
    is_kept_out = mode in ("held", "file")
    with base.copy() as trial:
        clock = trial.folder / "clock"
        set_clock(clock, FIRST_RUN)
        first = trial.hour(
            now=lambda: datetime.fromisoformat(clock.read_text()),
            places=(places := trial.places(stop_at=place)),
            lease_seconds=lease_seconds,
        )
        comes_at = FIRST_RUN + timedelta(minutes=10) if is_kept_out else FIRST_RUN + timedelta(hours=1)
        second = trial.hour(HOURS if is_kept_out else HOURS + 1, now=comes_at, lease_seconds=lease_seconds)

        def meanwhile() -> None:
            set_clock(clock, comes_at + timedelta(minutes=5))
            time.sleep(sleep_seconds if mode == "file" else 0)

        overlap = overlapping_processes if base.is_bigquery or mode == "file" else within_one_process
        case.first, case.second = overlap(trial, places, first, second, meanwhile)
        trial.arrive(HOURS + 1 if mode != "file" else HOURS, HOURS + 2)
        last = trial.hour(HOURS + 2, now=FIRST_RUN + timedelta(hours=2))
        third = Child(last if mode == "file" else shared(last), trial.folder)
        if third.wait() != 0:
            case.violations.append(f"the third run failed: {third.error}")
            return case
        facts = trial.facts()
    verdicts = judged(facts, as_the_events_say(twin))
    case.laws = {law: [verdict.checked, len(verdict.violations)] for law, verdict in verdicts.items()}
    case.violations = [f"{law}: {text}" for law, verdict in verdicts.items() for text in verdict.violations]
    # Without a lease the first may find the other's candidates among its own, and reports it. After its last check it no
    # longer notices that it was overtaken.
    firsts = {"free": ("done", "ContractError"), "expired": ("overtaken",)}.get(mode, ("done",))
    is_late = mode == "expired" and place == PLACES[-1]
    if not case.first.startswith(("done",) if is_late else firsts):
        case.violations.append(f"the first run ended {case.first}")
    if case.second != ("busy" if is_kept_out else "done"):
        case.violations.append(f"the second run ended {case.second}")
    return case


def overlapping_processes(
    trial: Trial,
    places: Any,
    first: Callable[[], object],
    second: Callable[[], object],
    meanwhile: Callable[[], None],
) -> tuple[str, str]:
    """Use two processes; the first is paused by SIGSTOP while the second runs."""
    places.act = lambda: os.kill(os.getpid(), signal.SIGSTOP)
    sleeper = Child(lambda: ended(first), trial.folder)
    if not sleeper.wait_until_stopped():
        return f"never paused: {sleeper.error}", "did not run"
    if trial.base.is_bigquery:  # no other process may write to a DuckDB file
        trial.arrive(HOURS, HOURS + 1)
    meanwhile()
    other = Child(lambda: ended(second), trial.folder)
    said = other.answer if other.wait() == 0 else other.error
    sleeper.signal(signal.SIGCONT)
    return (sleeper.answer if sleeper.wait() == 0 else sleeper.error), said


def within_one_process(
    trial: Trial,
    places: Any,
    first: Callable[[], object],
    second: Callable[[], object],
    meanwhile: Callable[[], None],
) -> tuple[str, str]:
    """Use one process that holds the file; the second run happens within the first."""
    said: list[str] = []

    def act() -> None:
        trial.arrive_here(HOURS, HOURS + 1)
        meanwhile()
        said.append(ended(second))

    places.act = act
    child = Child(shared(lambda: (ended(first), said[0] if said else "did not run")), trial.folder)
    code = child.wait()
    return child.answer if code == 0 else (child.error, "?")


def shared(act: Callable[[], object]) -> Callable[[], object]:
    """Make DuckDB claim to allow other processes, so that leases are used."""

    def over() -> object:
        DuckDBWarehouse.is_exclusive = False
        return act()

    return over


def ended(run: Callable[[], object]) -> str:
    """Return how a run ended: done, busy, overtaken, or the name of its error."""
    try:
        run()
    except RunInProgressError:
        return "busy"
    except WinbackError as error:
        return "overtaken" if "took over" in str(error) else f"{type(error).__name__}: {error}"
    return "done"


def set_clock(clock: Path, moment: datetime) -> None:
    """Set the first run's clock."""
    clock.with_suffix(".new").write_text(moment.isoformat())
    clock.with_suffix(".new").rename(clock)


def as_the_events_say(twin: Facts) -> Callable[[Facts], Verdict]:
    """Return the law that tables that depend only on the raw events equal those of runs without overlap."""

    def sessions_and_exits_are_as_the_events_say(facts: Facts) -> Verdict:
        seen = Verdict()
        for name in FROM_EVENTS:
            mine, its = ({tuple(row.items()) for row in each.tables[name]} for each in (facts, twin))
            seen.see(mine == its, f"{name}: {len(mine - its)} rows too many, {len(its - mine)} too few")
            seen.checked += len(its)
        return seen

    return sessions_and_exits_are_as_the_events_say


def undisturbed(base: Base) -> Facts:
    """Return the facts after the three runs, one after the other."""
    with base.copy() as trial:
        for hour in range(3):
            if hour:
                trial.arrive(HOURS + hour - 1, HOURS + hour)
            trial.run(HOURS + hour, now=FIRST_RUN + timedelta(hours=hour))
        return trial.facts()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warehouse", default="duckdb", choices=["duckdb", "bigquery"])
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--places", default=",".join(PLACES))
    parser.add_argument("--sleep-seconds", type=float, default=0)
    parser.add_argument("--lanes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    began = time.monotonic()
    modes = [mode for mode in given.modes.split(",") if mode != "file" or given.warehouse == "duckdb"]
    wanted = [(place.strip(), mode) for place in given.places.split(",") for mode in modes]
    cases: list[Case] = []
    broken: list[str] = []
    with workshop() as root:
        base = make_base(root, "braze", is_bigquery=given.warehouse == "bigquery", has_rejection=False)
        twin = undisturbed(base)

        def lane(number: int) -> list[Case]:
            return [
                pause(base, place, mode, twin, given.sleep_seconds) for place, mode in wanted[number :: given.lanes]
            ]

        children = [Child(partial(lane, n), root) for n in range(given.lanes)]
        for child, code in [(child, child.wait()) for child in children]:
            cases += child.answer if code == 0 else []
            broken += [child.error] if code else []
    seconds = round(time.monotonic() - began, 1)
    if given.json:
        click.echo(json.dumps({"seconds": seconds, "broken": broken, "cases": [vars(case) for case in cases]}))
    else:
        for case in cases:
            checked = sum(counts[0] for counts in case.laws.values())
            click.echo(f"{case.place:<40} {case.mode:<8} first {case.first}, second {case.second}; {checked:,} checked")
            for text in case.violations[:8]:
                click.echo(f"  ! {text}")
        click.echo("\n".join([*broken, f"{len(cases)} pauses in {seconds:.0f} s"]))
    sys.exit(1 if broken or any(case.violations or not case.laws for case in cases) else 0)


if __name__ == "__main__":
    main()
