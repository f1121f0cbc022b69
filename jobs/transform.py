"""How does a run window become tables: dbt, in this process, over literals?"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.funnel import Funnel
from warehouse.errors import ContractError, RetryableError

PROJECT = Path(__file__).parents[1] / "dbt"
SINCE_EVER = datetime(1970, 1, 1, tzinfo=UTC)
# dbt retires some of its own syntax each release; our tests see that, an operator need not.
_QUIET = ["--log-level", "none", "--log-level-file", "none", "--no-use-colors", "--no-version-check"]


@dataclass(frozen=True)
class Window:
    """What one run takes in. All times UTC; the window is [from_at, until_at) over loaded_at.

    `history_until` is where the backfill ended, `profiles_from` up to where the audience has taken in decisions and outcomes,
    `fold_from_epoch` the first epoch whose deliveries may not be folded yet.
    """

    from_at: datetime
    until_at: datetime
    history_until: datetime
    profiles_from: datetime = SINCE_EVER
    fold_from_epoch: int = 0

    def as_vars(self) -> dict[str, Any]:
        """The dbt vars of the same names; timestamps without zone, always UTC."""
        times = {
            name: getattr(self, name).astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")
            for name in ("from_at", "until_at", "history_until", "profiles_from")
        }
        return {**times, "fold_from_epoch": self.fold_from_epoch}


class Transform:
    """The dbt project over one window; parsed once, then built in parts."""

    def __init__(
        self,
        warehouse_url: str,
        target: Path,
        funnel: Funnel,
        extra: dict[str, Any],
        window: Window,
        *,
        parsed: dict[str, Any] | None = None,
    ) -> None:
        """Say where and over what; nothing runs yet.

        `extra` are vars from the other configuration files. `parsed` keeps parsed projects from one window to the next.
        """
        # dbt's profile reads this; it is set here, in the one room that may touch the environment.
        os.environ["WINBACK_WAREHOUSE"] = _absolute(warehouse_url)
        os.environ["DBT_SEND_ANONYMOUS_USAGE_STATS"] = "false"
        self._options = [
            *_QUIET,
            "--project-dir", str(PROJECT),
            "--profiles-dir", str(PROJECT),
            "--target-path", str(target.absolute()),
            "--log-path", str(target.absolute()),
            "--no-write-json",
            "--vars", json.dumps({**funnel.as_vars(), **extra, **window.as_vars()}),
        ]  # fmt: skip
        # dbt names a DuckDB database after its file; where the file lies does not matter to the parsed project.
        self._key = json.dumps({**funnel.as_vars(), **extra, "database": Path(warehouse_url).stem})
        self._from_at = window.from_at
        self._parsed = {} if parsed is None else parsed

    def build(self, selector: str, *, full_refresh: bool = False) -> None:
        """Build one selector of dbt/selectors.yml with its data tests.

        Raises: ContractError when a data test fails, RetryableError when a model does.
        """
        from dbt.cli.main import dbtRunner  # noqa: PLC0415 - importing dbt takes a second, which `--help` need not pay

        arguments = ["build", "--selector", selector, *self._options]
        if full_refresh:
            arguments.append("--full-refresh")
        answer = dbtRunner(manifest=self._manifest()).invoke(arguments)
        if answer.success:
            return
        nodes = getattr(answer.result, "results", None) or []
        failed = [node for node in nodes if str(node.status) in ("fail", "error")]
        if not failed:
            raise RetryableError(f"dbt could not build {selector}: {_first_line(answer.exception)}")
        lines = [f"  {node.node.name}: {_first_line(node.message)}" for node in failed]
        text = f"dbt could not build {selector}:\n" + "\n".join(lines)
        if all(str(node.status) == "fail" for node in failed):
            raise ContractError(f"{text}\nThe data breaks a rule of the dbt project. Nothing was decided or sent.")
        raise RetryableError(text)

    def _manifest(self) -> Any:
        """The parsed project; a parse takes 1.7 s, so one serves the windows that follow within a week.

        Of what dbt reads while parsing only the merges' lower bounds depend on the window: those of an earlier window are
        right for a later one, and a little wider than need be. Everything else is rendered when it is built.
        """
        from dbt.cli.main import dbtRunner  # noqa: PLC0415

        from_at, manifest = self._parsed.get(self._key, (None, None))
        if from_at is None or not from_at <= self._from_at <= from_at + timedelta(days=7):
            parsed = dbtRunner().invoke(["parse", *self._options])
            if not parsed.success:
                raise ContractError(f"The dbt project does not parse: {_first_line(parsed.exception)}")
            manifest = parsed.result
            self._parsed[self._key] = (self._from_at, manifest)
        return manifest


def release() -> None:
    """Have dbt let go of the DuckDB file: it keeps a connection for the life of the process."""
    module = sys.modules.get("dbt.adapters.duckdb.connections")
    if module:
        module.DuckDBConnectionManager.close_all_connections()


def _absolute(url: str) -> str:
    """Make a DuckDB path absolute: dbt may be run from another folder."""
    return f"duckdb:///{Path(url.removeprefix('duckdb:///')).absolute()}" if url.startswith("duckdb:///") else url


def _first_line(message: object) -> str:
    """The line that says what happened, with what is quoted left out: a database's message may quote a user's data."""
    lines = [line.strip() for line in str(message or "unknown").splitlines() if line.strip()]
    telling = next((line for line in lines if "Error" in line or "Got" in line), lines[0] if lines else "unknown")
    return re.sub(r"'[^']*'", "'...'", telling)[:300]
