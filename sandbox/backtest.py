"""Backtest: runs the job over loaded history, window by window, against the local CRM, then measures the scores sent."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path

from sklearn.metrics import roc_auc_score

from core.clock import UNIX_EPOCH
from core.errors import ContractError
from core.progress import ProgressReporter
from core.settings import Settings
from crm_sync.destinations.braze import Braze
from jobs.context import JobContext, open_context
from jobs.hourly.run import Result, hourly
from jobs.transform.dbt import Window
from jobs.transform.funnel import load_funnel
from jobs.transform.shape import changed
from jobs.upkeep.demo_mark import read_mark, write_mark
from sandbox import DEMO_CONFIG
from sandbox.local_crm.server import LocalCrm
from warehouse import crms, ledger
from warehouse.duckdb.doctor import ReadOnlyDuckDB
from warehouse.duckdb.warehouse import DuckDBWarehouse

API_KEY = "local-key"


@dataclass(frozen=True)
class Replayed:
    """The runs, and how well the scores that they sent predicted the outcomes."""

    runs: list[Result]
    repeated: Result
    count_known: int
    auc: float | None
    churn_ratio: float | None


def replay(
    settings: Settings, until: datetime, every: timedelta, crm_database: Path, reporter: ProgressReporter
) -> Replayed:
    """Run windows of length `every` from the watermark to `until` (UTC), each as it would have run at its time.

    Raises: ContractError without history, or when `until` lies before the watermark.
    """
    with (
        LocalCrm(crm_database, api_key=API_KEY) as crm,
        open_context(_fitting(settings), reporter=reporter, destination=Braze(crm.url, API_KEY)) as opened,
    ):
        # The local CRM stands for the one whose state the copy holds.
        served = crms.newest(opened.warehouse)
        context = replace(opened, crm=served.crm) if served else opened
        first, last = ledger.history(context.warehouse, max(until, context.now()))
        if until <= last.window_until:
            raise ContractError("There is nothing to replay: choose a time after the watermark.")
        count_windows = ceil((until - last.window_until) / every)
        untils = [min(last.window_until + n * every, until) for n in range(1, count_windows + 1)]
        mark = read_mark(context.warehouse)
        if mark and mark.is_of_demo(last) and isinstance(context.warehouse, DuckDBWarehouse):
            write_mark(context.warehouse, replace(mark, windows_until=mark.windows_until | {*untils}))
        runs = []
        for upto in untils:
            crm.stand_at(upto)
            runs.append(hourly(at_the_time(context, upto), upto))
        repeated = hourly(at_the_time(context, until), until)
        return Replayed(runs, repeated, *_hindsight(context, first.window_until, until))


def at_the_time(context: JobContext, moment: datetime) -> JobContext:
    """Return the same context with its clock at that moment, UTC. A run then sees nothing that is loaded later."""
    return replace(context, now=lambda: moment)


def _fitting(settings: Settings) -> Settings:
    """Use the demo's configuration in a demo's warehouse, unless the configured funnel is the demo's."""
    file = settings.duckdb_file
    if file is None or not file.is_file():
        return settings
    with closing(ReadOnlyDuckDB(file)) as warehouse:
        last = ledger.last_epoch(warehouse) if warehouse.exists("ops", "runs") else None
        if last is None or read_mark(warehouse) is None:
            return settings
    try:
        is_fitting = not changed(last.funnel, load_funnel(settings.config / "funnel.yml"))
    except ContractError:
        is_fitting = False
    return settings if is_fitting else settings.model_copy(update={"config": DEMO_CONFIG})


def _hindsight(context: JobContext, history_until: datetime, until: datetime) -> tuple[int, float | None, float | None]:
    """Return the AUC of the scores sent against the labels known at the end."""
    context.transform(Window(from_at=UNIX_EPOCH, until_at=until, history_until=history_until)).build("examples")
    warehouse = context.warehouse
    known = warehouse.query(
        f"""
        select examples.label, decisions.churn_probability
        from {warehouse.relation("marts", "fct_training_examples")} as examples
        inner join {warehouse.relation("staging", "stg_ops__decisions")} as decisions
            on examples.exit_id = decisions.exit_id and decisions.disposition = 'scored'
        """
    )
    labels = known.column("label").to_numpy()
    if len(set(labels.tolist())) < 2:
        return len(labels), None, None
    auc = float(roc_auc_score(labels, known.column("churn_probability").to_numpy()))
    return len(labels), auc, float(labels.mean())
