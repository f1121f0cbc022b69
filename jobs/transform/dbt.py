"""How does a run window become tables: dbt, in this process, over literals?"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeGuard

from core.clock import UNIX_EPOCH
from core.errors import ContractError, RetryableError, WinbackError
from jobs.transform.manifest_cache import read_parsed, write_parsed

PROJECT = Path(__file__).parents[2] / "dbt"
# dbt retires some of its own syntax each release; our tests see that, an operator need not.
_QUIET = ["--log-level", "none", "--log-level-file", "none", "--no-use-colors", "--no-version-check"]


@dataclass(frozen=True)
class Window:
    """What one run takes in. All times UTC; the window is [from_at, until_at) over loaded_at.

    `history_until` is where the backfill ended, `profiles_from` up to where the audience has taken in decisions and outcomes,
    `fold_from_epoch` the first epoch whose deliveries may not be folded yet, and `fold_from_at` a time before all of those.
    """

    from_at: datetime
    until_at: datetime
    history_until: datetime
    profiles_from: datetime = UNIX_EPOCH
    fold_from_epoch: int = 0
    fold_from_at: datetime = UNIX_EPOCH
    arrivals_from: datetime | None = None  # where what arrived is counted from, if not from `from_at`

    def as_vars(self) -> dict[str, Any]:
        """The dbt vars of the same names; timestamps without zone, always UTC."""
        times = {
            name: getattr(self, name).astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")
            for name in ("from_at", "until_at", "history_until", "profiles_from", "fold_from_at")
        }
        arrivals_from = self.arrivals_from or self.from_at
        times["arrivals_from"] = arrivals_from.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")
        return {**times, "fold_from_epoch": self.fold_from_epoch}


class Transform:
    """The dbt project over one window; parsed once, then built in parts."""

    def __init__(
        self,
        environment: dict[str, str],
        target: Path,
        variables: dict[str, Any],
        window: Window,
        *,
        parsed: dict[str, Any] | None = None,
    ) -> None:
        """Say where and over what; nothing runs yet.

        `environment` is what dbt's profile reads: WINBACK_WAREHOUSE and, for BigQuery, its settings. `variables` are vars from
        the configuration files. `parsed` keeps parsed projects from one window to the next.
        """
        warehouse_url = environment["WINBACK_WAREHOUSE"]
        self._environment = {
            **environment,
            "WINBACK_WAREHOUSE": _absolute(warehouse_url),
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        }
        self._variables = {**variables, **window.as_vars()}
        self._target = target.absolute()
        self._options = [
            *_QUIET,
            "--project-dir", str(PROJECT),
            "--profiles-dir", str(PROJECT),
            "--target-path", str(self._target),
            "--log-path", str(self._target),
            "--no-write-json",
        ]  # fmt: skip
        # dbt names a DuckDB database after its file; where the file lies does not matter to the parsed project.
        self._is_bigquery = warehouse_url.startswith("bigquery:")
        database = warehouse_url if self._is_bigquery else Path(warehouse_url).stem
        self._key = json.dumps({**variables, "database": database})
        self._from_at = window.from_at
        self._parsed = {} if parsed is None else parsed

    def build(self, selector: str, *, full_refresh: bool = False) -> None:
        """Build one selector of dbt/selectors.yml with its data tests.

        Raises: ContractError when a data test fails, RetryableError when a model does.
        """
        arguments = ["build", "--selector", selector, *self._options]
        if self._is_bigquery:
            # Out of reach for one model it is for all, and each would try for minutes.
            arguments.append("--fail-fast")
        if full_refresh:
            # What this job rebuilds, it may: a hand on the keyboard has to say so.
            arguments += ["--full-refresh", *self._vars(allow_full_refresh=True)]
        else:
            arguments += self._vars()
        answer = self._invoke(arguments, self.parse())
        if answer.success:
            return
        nodes = getattr(answer.result, "results", None) or []
        failed = [node for node in nodes if str(node.status) in ("fail", "error")]
        known = self._known(answer.exception, [str(node.message) for node in failed])
        if known:
            names = ", ".join(node.node.name for node in failed)
            raise type(known)(f"dbt could not build {selector}{f' ({names})' if names else ''}: {known}")
        if not failed:
            raise RetryableError(f"dbt could not build {selector}: {_first_line(answer.exception)}")
        lines = [f"  {node.node.name}: {_first_line(node.message)} {_advice(node.node)}".rstrip() for node in failed]
        text = f"dbt could not build {selector}:\n" + "\n".join(lines)
        if all(str(node.status) == "fail" for node in failed):
            raise ContractError(f"{text}\nThe data breaks a rule of the dbt project. Nothing was decided or sent.")
        raise RetryableError(text)

    def _invoke(self, arguments: list[str], manifest: Any = None) -> Any:
        """Run dbt. Its profile reads the environment, which is as it was before when dbt is done."""
        from dbt.cli.main import dbtRunner  # noqa: PLC0415 - importing dbt takes a second, which `--help` need not pay

        before = {name: os.environ.get(name) for name in self._environment}
        os.environ.update(self._environment)
        try:
            return dbtRunner(manifest=manifest).invoke(arguments)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})

    def _known(self, error: BaseException | None, messages: list[str]) -> WinbackError | None:
        """What BigQuery said, in the words and with the verdict that the warehouse has for it."""
        if not self._is_bigquery:
            return None
        from warehouse.bigquery.errors import explain_dbt  # noqa: PLC0415 - Google's libraries, which DuckDB need not pay

        return explain_dbt(error, messages)

    def _vars(self, **more: Any) -> list[str]:
        return ["--vars", vars_text(self._variables | more)]

    def parse(self) -> Any:
        """Return the parsed project: of this process, of one before it, or parsed now.

        Of what dbt reads while parsing only the merges' lower bounds depend on the window: those of an earlier window are
        right for a later one, and a little wider than need be, so one serves for a week. Everything else is rendered when it
        is built.
        """
        found = self._parsed.get(self._key)
        if not self._serves(found):
            found = read_parsed(self._target, PROJECT, self._key)
        if not self._serves(found):
            answer = self._invoke(["parse", *self._options, *self._vars()])
            if not answer.success:
                raise ContractError(f"The dbt project does not parse: {_first_line(answer.exception)}")
            found = self._from_at, answer.result
            write_parsed(self._target, PROJECT, self._key, *found)
        self._parsed[self._key] = found
        return found[1]

    def _serves(self, found: tuple[datetime, Any] | None) -> TypeGuard[tuple[datetime, Any]]:
        return found is not None and found[0] <= self._from_at <= found[0] + timedelta(days=7)


def vars_text(variables: dict[str, Any]) -> str:
    """Return the value of `--vars`, which dbt reads as YAML.

    JSON's escape of a character beyond 16 bits, such as an emoji, is two halves that YAML refuses, so characters stay as they
    are; those that YAML does not take as they are, control characters and breaks of lines, are escaped.
    """
    text = json.dumps(variables, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def release() -> None:
    """Have dbt let go of the DuckDB file: it keeps a connection for the life of the process."""
    module = sys.modules.get("dbt.adapters.duckdb.connections")
    if module:
        module.DuckDBConnectionManager.close_all_connections()


def _absolute(url: str) -> str:
    """Make a DuckDB path absolute: dbt may be run from another folder."""
    return f"duckdb:///{Path(url.removeprefix('duckdb:///')).absolute()}" if url.startswith("duckdb:///") else url


def _advice(node: Any) -> str:
    """What a data test's description says about its failure; nothing of a model, whose description is about its rows."""
    return " ".join(str(node.description or "").split()) if str(node.resource_type) == "test" else ""


def _first_line(message: object) -> str:
    """The line that says what happened, with what is quoted left out: a database's message may quote a user's data."""
    lines = [line.strip() for line in str(message or "unknown").splitlines() if line.strip()]
    telling = next((line for line in lines if "Error" in line or "Got" in line), lines[0] if lines else "unknown")
    return re.sub(r"'[^']*'", "'...'", telling)[:300]
