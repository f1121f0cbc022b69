"""Kills a run at each of its effects, and checks that nothing is lost or doubled after the next run.

    python -m tests.support.crash.kill_matrix [--short] [--crm braze,hubspot] [--warehouse duckdb] \
        [--places "after build audience"] [--json]

A first run counts the places where a run may die: before and after every build by dbt, every write to the warehouse, and every
request to the CRM. Then, for each place, in a world of its own: a run is killed there by SIGKILL, another runs undisturbed, and
the laws (tests/support/invariants.py) are checked. Exit 1 when a law is violated or a place could not be reached.

    --short   one place after each kind of effect: before the next effect nothing leaves the process
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import click

from tests.support.crash.environment import NEXT_RUN, Base, make_base, workshop
from tests.support.crash.kill_points import Place, told
from tests.support.crash.subprocesses import Child
from tests.support.invariants import equal_to, judged, nothing_acknowledged_is_sent_again


@dataclass
class Found:
    """Result of a matrix for one CRM and warehouse. `kinds` are places found and killed at, by kind."""

    crm: str
    warehouse: str
    hour: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, list[int]] = field(default_factory=dict)
    skipped: int = 0
    runs: int = 0
    laws: dict[str, list[int]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_well(self) -> bool:
        """Whether a run was killed at every place tried, and every law was checked and holds."""
        return (
            not self.violations
            and all(killed == tried for tried, killed in self.kinds.values())
            and all(checked for checked, _ in self.laws.values())
        )


def matrix(base: Base, *, is_short: bool, only: list[str], lanes: int) -> Found:
    """Kill a run at every place."""
    began = time.monotonic()
    found = Found(base.crm, "bigquery" if base.is_bigquery else "duckdb")
    with base.copy() as twin:
        counting = twin.places()
        said = twin.run(places=counting)
        passed, undisturbed = told(counting.told_in), twin.facts()
    found.hour = _told(said)
    found.runs = 1
    chosen = [place for place in passed if not only or str(place) in only]
    if is_short:
        chosen = list({str(place): place for place in chosen if place.when == "after"}.values())
    found.skipped = len(passed) - len(chosen)
    for kind, count in Counter(map(str, chosen)).items():
        found.kinds[kind] = [count, 0]

    def lane(number: int) -> list[tuple[Place, bool, dict[str, Any]]]:
        return [(place, *killed_at(base, place, undisturbed)) for place in chosen[number::lanes]]

    children = [Child(partial(lane, n), base.folder) for n in range(lanes)]
    codes = [child.wait() for child in children]
    for child, code in zip(children, codes, strict=True):
        if code != 0:
            found.violations.append(f"a lane broke off: {child.error}")
            continue
        for place, is_killed, verdicts in child.answer:
            found.runs += 2
            found.kinds[str(place)][1] += is_killed
            for law, verdict in verdicts.items():
                counts = found.laws.setdefault(law, [0, 0])
                counts[0] += verdict.checked
                counts[1] += len(verdict.violations)
                found.violations += [f"{place} ({place.number}): {law}: {text}" for text in verdict.violations]
    found.seconds = round(time.monotonic() - began, 1)
    return found


def killed_at(base: Base, place: Place, undisturbed: Any) -> tuple[bool, dict[str, Any]]:
    """Kill a run at a place, run again undisturbed, and check the laws."""
    with base.copy() as trial:
        places = trial.places(stop_at=place)
        code = trial.start(places=places).wait()
        is_killed = code == -signal.SIGKILL and told(places.told_in) == [place]
        trial.run(now=NEXT_RUN)
        facts = trial.facts()
    return is_killed, judged(facts, nothing_acknowledged_is_sent_again, equal_to(undisturbed))


def _told(said: dict[str, Any]) -> dict[str, int]:
    """Return what the hour contained, so that no law is checked on an empty one."""
    sync, scoring = said["sync"], said["scoring"]
    return {
        "decided": scoring["exits"],
        "granted": scoring["eligible"],
        "told": sync["delivered"],
        "withdrawn": sync["withdrawals"],
        "rejected": sync["rejected"],
        "suppressed": sum(sync["suppressed"].values()),
        "requests": sync["requests"],
    }


def show(found: Found) -> None:
    """Print a table."""
    tried, killed = (sum(each[i] for each in found.kinds.values()) for i in (0, 1))
    click.echo(
        f"\n{found.crm} on {found.warehouse}: {killed} of {tried + found.skipped} places killed at, {found.skipped} left out, "
    )
    click.echo(
        f"{found.runs} runs in {found.seconds:.0f} s; the hour: {', '.join(f'{n} {what}' for what, n in found.hour.items())}"
    )
    for kind, (count, at_them) in found.kinds.items():
        click.echo(f"  {kind:<60} {at_them:>4} / {count}")
    for law, (checked, violated) in found.laws.items():
        click.echo(f"  {law:<60} {checked:>7,} checked {violated:>4} violated")
    for text in found.violations[:20]:
        click.echo(f"  ! {text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--crm", default="braze")
    parser.add_argument("--warehouse", default="duckdb", choices=["duckdb", "bigquery"])
    parser.add_argument("--places", default="")
    parser.add_argument("--lanes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    only = [each.strip() for each in given.places.split(",") if each.strip()]
    began, found = time.monotonic(), []
    with workshop() as root:
        for crm in given.crm.split(","):
            base = make_base(root, crm, is_bigquery=given.warehouse == "bigquery")
            found.append(matrix(base, is_short=given.short, only=only, lanes=given.lanes))
            if not given.json:
                show(found[-1])
    seconds = round(time.monotonic() - began, 1)
    if given.json:
        click.echo(
            json.dumps({"seconds": seconds, "found": [vars(each) | {"is_well": each.is_well} for each in found]})
        )
    else:
        click.echo(f"\n{seconds:.0f} s in all")
    sys.exit(0 if all(each.is_well for each in found) else 1)


if __name__ == "__main__":
    main()
