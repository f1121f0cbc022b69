"""Is everything there that a run needs, and what is to be done where it is not? Looks, and changes nothing."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.clock import utc_now
from core.errors import ContractError, RunInProgressError, WinbackError
from core.settings import Settings
from jobs.context import bigquery_connection, open_warehouse
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

if TYPE_CHECKING:  # a second that DuckDB need not pay
    from warehouse.bigquery.facts import Facts

_PATIENCE_SECONDS = 20  # a person waits


@dataclass(frozen=True)
class Diagnosis:
    """What was found, in the order in which a run needs it."""

    findings: tuple[Finding, ...]

    @property
    def failed(self) -> list[Finding]:
        """What would stop a run."""
        return [finding for finding in self.findings if finding.state == "failed"]

    @property
    def error(self) -> ContractError | None:
        """How a command that found something leaves."""
        names = ", ".join(finding.check for finding in self.failed)
        return ContractError(f"Of {len(self.findings)} checks these failed: {names}.") if names else None

    def as_dict(self) -> dict[str, Any]:
        """One machine-readable object."""
        return {"count_failed": len(self.failed), "findings": list(self.findings)}


def unusable(error: ContractError) -> Diagnosis:
    """The diagnosis where the settings cannot be read: nothing further can be looked at."""
    do = ("Correct the environment. README.md has the table of settings.",)
    return Diagnosis((Finding("settings", "failed", str(error), do),))


def doctor(settings: Settings, now: datetime | None = None) -> Diagnosis:
    """Check everything; a check that fails does not keep the others from being made. `now` is UTC, by default the clock's."""
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
    from warehouse.duckdb.doctor import ReadOnlyDuckDB  # noqa: PLC0415 - BigQuery need not pay

    path = settings.duckdb_file or Path()
    load = ("Load data, or correct WINBACK_WAREHOUSE:", "winback load --events FILE --users FILE")
    if not path.is_file():
        return [Finding("warehouse", "failed", f"there is no {path.name} in {path.parent}/", load)]
    try:
        warehouse = ReadOnlyDuckDB(path)
    except RunInProgressError as error:
        do = ("If that is a run, look again when it has ended. If it is a shell or a notebook, close it.",)
        return [Finding("warehouse", "warning", str(error), do)]
    except ContractError as error:
        do = ("Is it a DuckDB file? One that a newer DuckDB wrote needs that version.",)
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
        return [*found, *check_history(warehouse, bundle, now, settings.max_watermark_age_seconds, _funnel(settings))]


def _bigquery(settings: Settings, bundle: bundles.Bundle | None, now: datetime) -> list[Finding]:
    from jobs.doctor.bigquery import findings  # noqa: PLC0415 - a second that DuckDB need not pay
    from jobs.doctor.remediation import BigQueryCommands  # noqa: PLC0415
    from warehouse.bigquery.doctor import examine  # noqa: PLC0415

    wanted = BigQueryCommands(**vars(bigquery_connection(settings)))
    facts = examine(replace(wanted, retry_seconds=_PATIENCE_SECONDS))
    return [*findings(facts, wanted), *_history_in_bigquery(settings, facts, bundle, now)]


def _history_in_bigquery(
    settings: Settings, facts: Facts, bundle: bundles.Bundle | None, now: datetime
) -> list[Finding]:
    if facts.queries or not isinstance(facts.locations.get("raw"), str):
        return [Finding("history", "skipped", "not asked: BigQuery gives no answers yet")]
    try:
        warehouse = open_warehouse(settings)
    except WinbackError as error:
        return [Finding("history", "failed", str(error))]
    with closing(warehouse):
        return check_history(warehouse, bundle, now, settings.max_watermark_age_seconds, _funnel(settings))


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
) -> list[Finding]:
    """Say how far the epochs have come, and whether the newest candidates fit the model."""
    try:
        last = ledger.last_epoch(warehouse) if warehouse.exists("ops", "runs") else None
        if last is None:
            do = ("Take history in, once, up to now:", "winback backfill --until TIME")
            return [Finding("history", "failed", "no backfill yet", do)]
        told = f"{last.epoch + 1} epochs, watermark {last.window_until:%Y-%m-%d %H:%M} UTC"
        found = [
            Finding("history", "ok", told),
            *_watermark(warehouse, last, now or utc_now(), max_watermark_age_seconds),
            *_shape(last, funnel),
            *_audience(warehouse),
        ]
        if warehouse.exists("marts", "fct_unfinished_exits"):
            found.append(profiles(coverage_of_exits(warehouse, last.window_until)))
        if bundle and warehouse.exists("marts", MART):
            found.append(_candidates(warehouse, bundle))
    except WinbackError as error:
        return [Finding("history", "failed", str(error))]
    return found


def _watermark(warehouse: Reader, last: ledger.Epoch, now: datetime, max_age_seconds: int) -> list[Finding]:
    """Nothing where it is neither ahead of now nor older than it should be."""
    if last.clock_at > now:
        do = (
            "Check the clock of this machine (date -u). If it is right, put the watermark back, and go on:",
            "winback repair-watermark",
            "winback hourly",
        )
        return [Finding("watermark", "failed", ledger.ahead(last, now), do)]
    if old := stale(warehouse, last, now, max_age_seconds):
        return [Finding("watermark", "ok" if old.is_demo else "warning", old.says, old.do)]
    return []


def _shape(last: ledger.Epoch, funnel: Funnel | None) -> list[Finding]:
    """Nothing where funnel.yml is what shaped the tables, or cannot be read: that is told among the files."""
    try:
        if funnel:
            refuse_changed(last.funnel, funnel)
    except ContractError as error:
        do = ("Change it back. To use it as it is, begin a new warehouse: docs/dbt.md, Change the inactivity gap.",)
        return [Finding("funnel", "failed", str(error), do)]
    return []


def profiles(coverage: Coverage) -> Finding:
    """Say how many users who left lately had a known profile: without one nobody consents, and nobody gets a voucher."""
    do = () if coverage.is_enough else coverage.do
    return Finding("profiles", "ok" if coverage.is_enough else "warning", coverage.says, do)


def _audience(warehouse: Reader) -> list[Finding]:
    """Nothing where all is well: the audience's tables are the run's own business."""
    try:
        check_schema_version(warehouse)
    except ContractError as error:
        return [Finding("version", "failed", str(error), MIGRATE)]
    return []


def _candidates(warehouse: Reader, bundle: bundles.Bundle) -> Finding:
    try:
        bundle.contract.check_columns(warehouse.schema(f"select * from {warehouse.relation('marts', MART)}"), MART)
    except ContractError as error:
        do = ("Restore the column in dbt, or train a model on the new contract: winback train",)
        return Finding("candidates", "failed", str(error), do)
    return Finding("candidates", "ok", f"{MART} has the model's columns")
