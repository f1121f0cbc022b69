"""Run one hour and be killed by SIGKILL at the n-th effect; a program for tests/test_crash.py.

    python -m tests.killed_run FOLDER CRM_URL HOURS N

Effects are what leaves the process: a build by dbt, a write to the warehouse, a request to the CRM. Each is a place to die twice:
before it and after it. Exit 0 when the run ended before its n-th place.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from crm_sync.destinations.braze import Braze
from jobs.hourly import hourly
from jobs.house import open_house
from jobs.transform import Transform
from tests.world import API_KEY, NOW, at, settings_in
from warehouse.duckdb import DuckDBWarehouse


class Death:
    """Counts places and kills the process at one of them."""

    def __init__(self, place: int) -> None:
        self.left = place

    def near(self, effect: Any) -> Any:
        """The same effect, with a place to die before and after it."""

        def dangerous(*args: Any, **kwargs: Any) -> Any:
            self._place()
            answer = effect(*args, **kwargs)
            self._place()
            return answer

        return dangerous

    def _place(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    folder, url, hours, place = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    death = Death(place)
    for owner, name in ((Transform, "build"), (DuckDBWarehouse, "append"), (Braze, "send")):
        setattr(owner, name, death.near(getattr(owner, name)))
    with open_house(settings_in(folder), destination=Braze(url, API_KEY), now=lambda: NOW) as house:
        hourly(house, at(hours))


if __name__ == "__main__":
    main()
