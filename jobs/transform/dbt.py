"""Runs dbt in this process to build the tables for a run window.

The bounds of the window reach the SQL as literals.
"""

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
# dbt deprecates some syntax in each release; our tests show these warnings, operators do not need them.
_QUIET = ["--log-level", "none", "--log-level-file", "none", "--no-use-colors", "--no-version-check"]


@dataclass(frozen=True)
class Window:
    """The window of one run: [from_at, until_at) over loaded_at. All times UTC.

    `history_until` is the end of the backfill. The audience includes decisions and outcomes up to `profiles_from`.
    `fold_from_epoch` is the first epoch whose deliveries may be missing in crm_acknowledged, and `fold_from_at` is a time before
    all of those deliveries. `crm_since` is the first number of ops.crms whose deliveries count.
    """

    from_at: datetime
    until_at: datetime
    history_until: datetime
    profiles_from: datetime = UNIX_EPOCH
    fold_from_epoch: int = 0
    fold_from_at: datetime = UNIX_EPOCH
    crm_since: int = 0
    arrivals_from: datetime | None = None  # start of the count of loaded events, if not `from_at`

    def as_vars(self) -> dict[str, Any]:
        """Return the dbt vars of the same names; timestamps have no time zone and are UTC."""
        times = {
            name: getattr(self, name).astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")
            for name in ("from_at", "until_at", "history_until", "profiles_from", "fold_from_at")
        }
        arrivals_from = self.arrivals_from or self.from_at
        times["arrivals_from"] = arrivals_from.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ")
        return {**times, "fold_from_epoch": self.fold_from_epoch, "crm_since": self.crm_since}


class Transform:
    """The dbt project for one window; parsed once, then built in parts."""

    def __init__(
        self,
        environment: dict[str, str],
        target: Path,
        variables: dict[str, Any],
        window: Window,
        *,
        parsed: dict[str, Any] | None = None,
    ) -> None:
        """Store the parameters; nothing runs yet.

        `environment` has the variables that dbt's profile reads: WINBACK_WAREHOUSE and, for BigQuery, its settings. `variables`
        are vars from the configuration files. `parsed` caches parsed projects for later windows.
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
        # dbt names a DuckDB database after its file. The parsed project does not depend on the folder of the file.
        self._is_bigquery = warehouse_url.startswith("bigquery:")
        database = warehouse_url if self._is_bigquery else Path(warehouse_url).stem
        self._key = json.dumps({**variables, "database": database})
        self._from_at = window.from_at
        self._parsed = {} if parsed is None else parsed

    def build(self, selector: str, *, full_refresh: bool = False) -> None:
        """Build one selector of dbt/selectors.yml with its data tests.

        Raises: ContractError if a data test fails, RetryableError if a model fails.
        """
        arguments = ["build", "--selector", selector, *self._options]
        if self._is_bigquery:
            # If BigQuery is unreachable, every model would retry for minutes.
            arguments.append("--fail-fast")
        if full_refresh:
            # The job may do a full refresh. The project refuses it otherwise: a person must pass allow_full_refresh.
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
        """Run dbt. Its profile reads the environment, which is restored afterwards."""
        from dbt.cli.main import dbtRunner  # noqa: PLC0415 - importing dbt takes a second; `--help` does not need it

        before = {name: os.environ.get(name) for name in self._environment}
        os.environ.update(self._environment)
        try:
            return dbtRunner(manifest=manifest).invoke(arguments)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})

    def _known(self, error: BaseException | None, messages: list[str]) -> WinbackError | None:
        """Translate an error of BigQuery into one of winback's errors; returns None if it is not known."""
        if not self._is_bigquery:
            return None
        from warehouse.bigquery.errors import explain_dbt  # noqa: PLC0415 - Google's libraries; DuckDB does not need them

        return explain_dbt(error, messages)

    def _vars(self, **more: Any) -> list[str]:
        return ["--vars", vars_text(self._variables | more)]

    def parse(self) -> Any:
        """Return the parsed project: from this process, from the cache file, or parsed now.

        While parsing, only the lower bounds of the merges depend on the window. Those of an earlier window are correct for a
        later one, and only a little too wide. A parsed project is therefore used for a week. Everything else is rendered
        during the build.
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

    JSON escapes a character beyond 16 bits, such as an emoji, as two halves, which YAML rejects. Characters therefore stay
    unescaped, except those that YAML does not accept: control characters and line breaks.
    """
    text = json.dumps(variables, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def release() -> None:
    """Close dbt's connection to the DuckDB file, which it otherwise keeps until the process ends."""
    module = sys.modules.get("dbt.adapters.duckdb.connections")
    if module:
        module.DuckDBConnectionManager.close_all_connections()


def _absolute(url: str) -> str:
    """Make a DuckDB path absolute, because dbt may run in another folder."""
    return f"duckdb:///{Path(url.removeprefix('duckdb:///')).absolute()}" if url.startswith("duckdb:///") else url


def _advice(node: Any) -> str:
    """Return the description of a data test, which explains the failure, or an empty text for a model."""
    return " ".join(str(node.description or "").split()) if str(node.resource_type) == "test" else ""


def _first_line(message: object) -> str:
    """Return the line that says what happened, without quoted text, which may be a user's data."""
    lines = [line.strip() for line in str(message or "unknown").splitlines() if line.strip()]
    telling = next((line for line in lines if "Error" in line or "Got" in line), lines[0] if lines else "unknown")
    return re.sub(r"'[^']*'", "'...'", telling)[:300]
