"""Runs all checks of `winback doctor` and collects their findings; changes nothing."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.clock import utc_now
from core.errors import ContractError, RunInProgressError, WinbackError
from core.settings import Settings
from crm_sync.destinations.identity import identity_of
from jobs.context import bigquery_connection, open_warehouse
from jobs.crm_state.check import REMEDY, other_crm
from jobs.doctor.crm import crm
from jobs.doctor.finding import MIGRATE, Finding, check_winback_tables, compare
from jobs.doctor.local import dbt, files, model
from jobs.transform.funnel import Funnel, load_funnel
from jobs.transform.schema_version import check_schema_version
from jobs.transform.shape import refuse_changed
from jobs.transform.watermark import stale
from jobs.upkeep.profile_coverage import Coverage, coverage_of_exits
from scoring.batch import MART
from scoring.registry import bundles
from warehouse import ledger
from warehouse.interface import Reader
from warehouse.tables import ALL

if TYPE_CHECKING:  # takes a second; DuckDB does not need it
    from warehouse.bigquery.facts import Facts

_PATIENCE_SECONDS = 20  # a person waits


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order in which a run needs the parts."""

    findings: tuple[Finding, ...]

    @property
    def failed(self) -> list[Finding]:
        """The findings that would stop a run."""
        return [finding for finding in self.findings if finding.state == "failed"]

    @property
    def error(self) -> ContractError | None:
        """The error of the command if a check failed."""
        names = ", ".join(finding.check for finding in self.failed)
        return ContractError(f"Of {len(self.findings)} checks these failed: {names}.") if names else None

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis for JSON."""
        return {"count_failed": len(self.failed), "findings": list(self.findings)}


def unusable(error: ContractError) -> Diagnosis:
    """Return the diagnosis if the settings cannot be read, because then nothing else can be checked."""
    do = ("Correct the environment. docs/reference/settings.md lists the settings.",)
    return Diagnosis((Finding("settings", "failed", str(error), do),))


def doctor(settings: Settings, now: datetime | None = None) -> Diagnosis:
    """Run all checks, even if some fail. `now` is UTC; the default is the current time."""
    now = now or utc_now()
    where = "BigQuery" if settings.bigquery else "a DuckDB file"
    bundle, of_model = model(settings)
    return Diagnosis(
        (
            Finding("settings", "ok", f"the warehouse is {where}"),
            *files(settings.config),
            *of_model,
            dbt(settings),
            *(_bigquery if settings.bigquery else _duckdb)(settings, bundle, now),
            *crm(settings),
        )
    )


def _duckdb(settings: Settings, bundle: bundles.Bundle | None, now: datetime) -> list[Finding]:
    from warehouse.duckdb.doctor import ReadOnlyDuckDB  # noqa: PLC0415 - BigQuery does not need it

    path = settings.duckdb_file or Path()
    load = ("Load data, or correct WINBACK_WAREHOUSE:", "winback load --events FILE --users FILE")
    if not path.is_file():
        return [Finding("warehouse", "failed", f"{path.name} does not exist in {path.parent}/", load)]
    try:
        warehouse = ReadOnlyDuckDB(path)
    except RunInProgressError as error:
        do = ("If that is a run, check again when it has ended. If it is a shell or a notebook, close it.",)
        return [Finding("warehouse", "warning", str(error), do)]
    except ContractError as error:
        do = ("Check that it is a DuckDB file. A file that a newer DuckDB wrote needs that version.",)
        return [Finding("warehouse", "failed", str(error), do)]
    with closing(warehouse):
        found = [Finding("warehouse", "ok", f"{path.name} opens with DuckDB {warehouse.version}")]
        try:
            warehouse.refuse_renamed()
        except ContractError as error:
            found.append(Finding("views", "failed", str(error), ("Rename the file.",)))
        names = [table.title for table in ALL]
        found.append(
            check_winback_tables("tables", {n: compare(*types) for n, types in warehouse.types().items()}, names)
        )
        return [*found, *_history(settings, warehouse, bundle, now)]


def _history(settings: Settings, warehouse: Reader, bundle: bundles.Bundle | None, now: datetime) -> list[Finding]:
    age, crm = settings.max_watermark_age_seconds, identity_of(settings.crm, settings.crm_url)
    return check_history(warehouse, bundle, now, age, _funnel(settings), crm=crm)


def _bigquery(settings: Settings, bundle: bundles.Bundle | None, now: datetime) -> list[Finding]:
    from jobs.doctor.bigquery import findings  # noqa: PLC0415 - takes a second; DuckDB does not need it
    from jobs.doctor.remediation import BigQueryCommands  # noqa: PLC0415
    from warehouse.bigquery.doctor import examine  # noqa: PLC0415

    wanted = BigQueryCommands(**vars(bigquery_connection(settings)))
    facts = examine(replace(wanted, retry_seconds=_PATIENCE_SECONDS))
    return [*findings(facts, wanted), *_history_in_bigquery(settings, facts, bundle, now)]


def _history_in_bigquery(
    settings: Settings, facts: Facts, bundle: bundles.Bundle | None, now: datetime
) -> list[Finding]:
    if facts.queries or not isinstance(facts.locations.get("raw"), str):
        return [Finding("history", "skipped", "not checked: BigQuery does not answer yet")]
    try:
        warehouse = open_warehouse(settings)
    except WinbackError as error:
        return [Finding("history", "failed", str(error))]
    with closing(warehouse):
        return _history(settings, warehouse, bundle, now)


def _funnel(settings: Settings) -> Funnel | None:
    with suppress(ContractError):
        return load_funnel(settings.config / "funnel.yml")
    return None


def check_history(
    warehouse: Reader,
    bundle: bundles.Bundle | None,
    now: datetime | None = None,
    max_watermark_age_seconds: int = 0,
    funnel: Funnel | None = None,
    *,
    crm: str = "",
) -> list[Finding]:
    """Check the history, the watermark, funnel.yml, the audience, the CRM, the profiles, and the columns of the candidates.

    `crm` is the identity of the CRM that the settings name; empty: not checked.
    """
    try:
        last = ledger.last_epoch(warehouse) if warehouse.exists("ops", "runs") else None
        if last is None:
            do = ("Build history, once, up to now:", "winback backfill --until TIME")
            return [Finding("history", "failed", "no backfill yet", do)]
        told = f"{last.epoch + 1} epochs, watermark {last.window_until:%Y-%m-%d %H:%M} UTC"
        found = [
            Finding("history", "ok", told),
            *_watermark(warehouse, last, now or utc_now(), max_watermark_age_seconds),
            *_shape(last, funnel),
            *_audience(warehouse),
            *_served_crm(warehouse, crm),
        ]
        if warehouse.exists("marts", "fct_unfinished_exits"):
            found.append(profiles(coverage_of_exits(warehouse, last.window_until)))
        if bundle and warehouse.exists("marts", MART):
            found.append(_candidates(warehouse, bundle))
    except WinbackError as error:
        return [Finding("history", "failed", str(error))]
    return found


def _watermark(warehouse: Reader, last: ledger.Epoch, now: datetime, max_age_seconds: int) -> list[Finding]:
    """Check that the watermark is neither later than now nor too old."""
    if last.clock_at > now:
        do = (
            "Check the clock of this machine (date -u). If it is right, put the watermark back, and continue:",
            "winback repair-watermark",
            "winback run",
        )
        return [Finding("watermark", "failed", ledger.ahead(last, now), do)]
    if old := stale(warehouse, last, now, max_age_seconds):
        return [Finding("watermark", "ok" if old.is_demo else "warning", old.says, old.do)]
    return []


def _shape(last: ledger.Epoch, funnel: Funnel | None) -> list[Finding]:
    """Check that funnel.yml has not changed since the build; the check of files reports one that cannot be read."""
    try:
        if funnel:
            refuse_changed(last.funnel, funnel)
    except ContractError as error:
        do = ("Change it back. To use it as it is, start a new warehouse: docs/how-to/change-the-session-rules.md.",)
        return [Finding("funnel", "failed", str(error), do)]
    return []


def profiles(coverage: Coverage) -> Finding:
    """Check how many users with a recent exit had a known profile; users without one get no voucher."""
    do = () if coverage.is_enough else coverage.do
    return Finding("profiles", "ok" if coverage.is_enough else "warning", coverage.says, do)


def _audience(warehouse: Reader) -> list[Finding]:
    """Check that the warehouse is of this version."""
    try:
        check_schema_version(warehouse)
    except ContractError as error:
        return [Finding("version", "failed", str(error), MIGRATE)]
    return []


def _served_crm(warehouse: Reader, crm: str) -> list[Finding]:
    """Check that the settings name the CRM whose state the tables hold."""
    problem = other_crm(warehouse, crm) if crm else None
    return [Finding("state of the CRM", "failed", problem, REMEDY)] if problem else []


def _candidates(warehouse: Reader, bundle: bundles.Bundle) -> Finding:
    try:
        bundle.contract.check_columns(warehouse.schema(f"select * from {warehouse.relation('marts', MART)}"), MART)
    except ContractError as error:
        do = ("Restore the column in dbt, or train a model on the new contract: winback train",)
        return Finding("candidates", "failed", str(error), do)
    return Finding("candidates", "ok", f"{MART} has the model's columns")
