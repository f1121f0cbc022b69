"""World of a run that is killed or paused, and the processes around it.

Everything is imported once, and for DuckDB the dbt project is parsed once. Then each run is a fork of this process, which itself
opens no warehouse and starts no thread. The CRM and the BigQuery emulator are processes of their own.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from json import loads
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from core.settings import Settings
from crm_sync.field_mapping import load_fields
from jobs.context import open_context, open_warehouse
from jobs.hourly.run import hourly
from jobs.models.train import train
from jobs.transform.dbt import Window
from jobs.transform.manifest_cache import NAME as PARSED
from jobs.upkeep.backfill import backfill
from sandbox.local_crm.apis.salesforce_jobs import canonical as spelled_in_the_store
from sandbox.local_crm.faults import Fault
from sandbox.local_crm.server import LocalCrm
from sandbox.synthetic_app import SyntheticApp
from scoring.policy import load_policy
from tests.support.crash.kill_points import Places
from tests.support.crash.subprocesses import Child, in_a_child, served
from tests.support.environment import (
    API_KEY,
    CONFIG,
    HISTORY_UNTIL,
    World,
    at,
    load_app,
    parse_ahead,
    settings_in,
    small_app,
)
from tests.support.invariants import ASKED, Facts, Write
from warehouse.interface import Warehouse
from warehouse.tables import APP_EVENTS, USERS, VOUCHER_REDEMPTIONS

if TYPE_CHECKING:
    from tests.support.bigquery_emulator.process import Emulator
    from tests.support.bigquery_environment import BigQueryWorld

COUNT_USERS = 1_500
# Sent and acknowledged before: the hour then withdraws vouchers that expired 24 hours later, or whose users have finished.
BEFORE_HOURS, HOURS = 6.0, 31.0
MAX_BATCH, MAX_IN_FLIGHT = 10, 3
# Salesforce's properties have other names.
FIELDS_OF = {"salesforce": CONFIG.parent / "examples" / "salesforce" / "crm_fields.yml"}
# Their jobs take a number of polls.
QUICK: dict[str, dict[str, Any]] = {
    "klaviyo": {"first_poll_seconds": 0.01, "max_poll_seconds": 0.01},
    "salesforce": {"first_poll_seconds": 0.01, "longest_poll_seconds": 0.01},
}
# How long after a killed run the next one begins: any lease has expired by then.
FIRST_RUN = at(HOURS) + timedelta(minutes=5)
NEXT_RUN = FIRST_RUN + timedelta(hours=1)


@dataclass(frozen=True)
class Base:
    """A world before the hour under test; trials work on copies."""

    folder: Path
    crm: str
    is_bigquery: bool
    parsed: dict[str, Any] = field(default_factory=dict, repr=False)
    rejected: tuple[str, ...] = ()
    runs_before: frozenset[str] = frozenset()

    @contextmanager
    def copy(self) -> Iterator[Trial]:
        """Yield a copy with its own servers."""
        folder = Path(tempfile.mkdtemp(prefix="trial-", dir=self.folder.parent))
        (folder / "dbt").mkdir()
        for name in ("winback.duckdb", "crm.sqlite", f"dbt/{PARSED}"):
            if (self.folder / name).exists():
                shutil.copy(self.folder / name, folder / name)
        if self.is_bigquery:
            shutil.copytree(self.folder / "emulator", folder / "emulator")
        with servers(self, folder) as trial:
            yield trial
        shutil.rmtree(folder)


@dataclass
class Trial:
    """A world of one trial. All access to the warehouse happens in child processes."""

    base: Base
    folder: Path
    world: World
    settings: Settings

    def hour(
        self,
        hours: float = HOURS,
        *,
        now: datetime | Callable[[], datetime] = FIRST_RUN,
        places: Places | None = None,
        lease_seconds: int = 900,
    ) -> Callable[[], object]:
        """Do one run; call it in a child process."""
        settings = self.settings.model_copy(update={"lease_seconds": lease_seconds})
        clock = now if callable(now) else lambda: now

        def act() -> object:
            with (
                self.world.context(destination=None, settings=settings, now=clock) as context,
                places.watched() if places else nullcontext(),
            ):
                # Log every batch at once; otherwise the log of so few rows would be one append at the end.
                context.warehouse.rows_per_append = MAX_BATCH
                return hourly(context, at(hours)).as_dict()

        return act

    def run(self, hours: float = HOURS, **parts: Any) -> dict[str, Any]:
        """Do one run in a process of its own. Raises: RuntimeError when it fails."""
        return cast("dict[str, Any]", in_a_child(self.hour(hours, **parts), self.folder))

    def start(self, hours: float = HOURS, **parts: Any) -> Child:
        """Begin a run in a process of its own."""
        return Child(self.hour(hours, **parts), self.folder)

    def arrive(self, since: float, until: float) -> None:
        """Load the events that arrive in these hours."""
        in_a_child(lambda: self.arrive_here(since, until), self.folder)

    def arrive_here(self, since: float, until: float) -> None:
        """The same; call it in a child process."""
        app = arrived(self.base.folder.parent / "history", at(until), at(since))
        warehouse = open_warehouse(self.settings)
        try:
            _append(warehouse, app)
        finally:
            warehouse.close()

    def places(self, **parts: Any) -> Places:
        """Return Places that write their list into this world's folder."""
        return Places(self.folder / f"places-{time.monotonic_ns()}.json", **parts)

    def facts(self) -> Facts:
        """Return all facts that the laws use."""
        tables = in_a_child(lambda: {name: self.world.query(sql) for name, sql in ASKED.items()}, self.folder)
        with closing(sqlite3.connect(self.folder / "crm.sqlite")) as db:
            profiles = db.execute("select external_id, attributes from profiles").fetchall()
            rows = db.execute("select external_id, run_id, changed from writes order by id").fetchall()
        config = self.settings.config
        fields = load_fields(config / "crm_fields.yml")
        # The local CRM stores one spelling for all CRMs; the mapping has Salesforce's.
        spelled = {spelled_in_the_store(target.property): target.property for target in fields.fields.values()}

        def told(attributes: str) -> dict[str, Any]:
            return {spelled.get(name, name): value for name, value in loads(attributes).items()}

        return Facts(
            tables=tables,
            crm={user: told(held) for user, held in profiles},
            writes=[Write(user, run_id, told(changed)) for user, run_id, changed in rows],
            policy=load_policy(config / "vouchers.yml"),
            fields=fields,
            runs_before=self.base.runs_before,
        )


@contextmanager
def servers(base: Base, folder: Path) -> Iterator[Trial]:
    """Serve the CRM, and the BigQuery emulator, over the files in a folder."""

    @contextmanager
    def crm() -> Iterator[LocalCrm]:
        with LocalCrm(folder / "crm.sqlite", api_key=API_KEY) as server:
            for allowance in server.desk.allowances.values():
                allowance.is_on = False
            if base.rejected:
                server.desk.faults.waiting.append(Fault("row_error", times=None, external_ids=list(base.rejected)))
            yield server

    with served(crm, lambda server: server.url, folder) as url:
        changes: dict[str, Any] = {
            "models": base.folder.parent / "history" / "models",
            "config": base.folder / "config",
            "crm": base.crm,
            "crm_url": url,
            "crm_api_key": API_KEY,
            "retry_budget_seconds": 5,
        }
        if not base.is_bigquery:
            world = World(folder, cast("LocalCrm", SimpleNamespace(url=url)), base.parsed)
            yield Trial(base, folder, world, settings_in(folder, **changes))
            return
        from tests.support.bigquery_emulator.process import Emulator  # noqa: PLC0415
        from tests.support.bigquery_environment import BigQueryWorld, bigquery_settings  # noqa: PLC0415 - slow

        def told(emulator: Emulator) -> tuple[str, str]:
            return emulator.url, emulator.storage_endpoint

        with served(lambda: Emulator(folder / "emulator"), told, folder) as (endpoint, storage):
            there = cast("Emulator", SimpleNamespace(url=endpoint, storage_endpoint=storage))
            settings = bigquery_settings(there, "winback", folder, **changes)
            server = cast("LocalCrm", SimpleNamespace(url=url))
            yield Trial(base, folder, BigQueryWorld(folder, server, base.parsed, emulator=there), settings)


def make_history(folder: Path) -> None:
    """Load an app up to the last run before the hour under test, and train. Call it in a child process."""
    app = small_app(count_users=COUNT_USERS)
    app.write(folder / "app")
    settings = settings_in(folder)
    load_app(arrived(folder, until=at(BEFORE_HOURS)), folder / "arrived", settings)
    with open_context(settings, now=lambda: FIRST_RUN) as context:
        backfill(context, HISTORY_UNTIL)
        train(context)


def arrived(history: Path, until: datetime, since: datetime | None = None) -> SyntheticApp:
    """Return what has arrived by a time. Later rows are absent, because a run that read them would leave nothing for later."""

    def cut(name: str, by: str) -> pa.Table:
        table = pq.read_table(history / "app" / f"{name}.parquet")
        moments = table.column(by)
        kept = pc.less(moments, pa.scalar(until, moments.type))
        return table.filter(pc.and_(kept, pc.greater_equal(moments, pa.scalar(since, moments.type))) if since else kept)

    events, users = cut("events", "loaded_at"), cut("users", "updated_at")
    return SyntheticApp(events, users, cut("redemptions", "loaded_at"), events.slice(0, 0))


def make_base(root: Path, crm: str, *, is_bigquery: bool = False, has_rejection: bool = True) -> Base:
    """Make the world before the hour: history, a run that filled the CRM, and then the arrivals of the hour.

    One user, whose voucher expires in the hour, is erased, and one withdraws consent; the CRM knows both. The CRM will reject
    another user, who is to get a voucher, unless `has_rejection` is false, which saves a run.
    """
    history = root / "history"
    if not history.exists():
        history.mkdir()
        in_a_child(lambda: make_history(history), root)
    base = Base(root / f"base-{crm}-{'bigquery' if is_bigquery else 'duckdb'}", crm, is_bigquery)
    base.folder.mkdir()
    config_of(crm, base.folder / "config")
    if not is_bigquery:
        # dbt-bigquery's parse leaves state that makes forked children hang. So each child parses for itself.
        settings = settings_in(base.folder, config=base.folder / "config")
        parse_ahead(settings, base.parsed, Window(HISTORY_UNTIL, at(HOURS), HISTORY_UNTIL))
    with _before(base, history) as trial:
        trial.run(BEFORE_HOURS, now=at(BEFORE_HOURS) + timedelta(minutes=5))
        before = trial.facts()
        granted = _granted(before)[0]
        told = sorted(user for user, held in before.crm.items() if len(held) > 5 and user != granted)
        trial.arrive(BEFORE_HOURS, HOURS)
        moment = at(HOURS) - timedelta(hours=1)
        in_a_child(lambda: trial.world.append_profile(granted, moment, erased_at=moment), root)
        in_a_child(lambda: trial.world.append_profile(told[0], moment, marketing_consent=False), root)
    base = replace(base, runs_before=frozenset(str(write.run_id) for write in before.writes))
    if not has_rejection:
        return base
    with base.copy() as scout:
        scout.run()
        return replace(base, rejected=(_granted(scout.facts(), epoch=2)[0],))


def _granted(facts: Facts, epoch: int = 1) -> list[str]:
    """Return the users with a voucher that a run sent to the CRM."""
    rows = facts.tables["deliveries"]
    return sorted(row["user_id"] for row in rows if row["is_voucher_eligible"] is True and row["epoch"] == epoch)


@contextmanager
def _before(base: Base, history: Path) -> Iterator[Trial]:
    """The base's own world, with history."""
    if not base.is_bigquery:
        shutil.copy(history / "winback.duckdb", base.folder)
        with servers(base, base.folder) as trial:
            yield trial
        return
    from tests.support.bigquery_environment import with_raw_tables  # noqa: PLC0415

    with servers(base, base.folder) as trial:
        world = cast("BigQueryWorld", trial.world)

        def record_outcomes() -> None:
            app = arrived(history, until=at(BEFORE_HOURS))
            with closing(with_raw_tables(cast("Emulator", world.emulator), world.prefix)) as warehouse:
                _append(warehouse, app)
            with world.context(destination=None, settings=trial.settings, now=lambda: FIRST_RUN) as context:
                backfill(context, HISTORY_UNTIL)

        in_a_child(record_outcomes, base.folder)
        yield trial


def _append(warehouse: Warehouse, app: SyntheticApp) -> None:
    for table, rows in ((APP_EVENTS, app.events), (USERS, app.users), (VOUCHER_REDEMPTIONS, app.redemptions)):
        warehouse.append(table, rows)


def config_of(crm: str, folder: Path) -> None:
    """Write configuration under which one hour has every case: expiring vouchers, short budgets, a hidden holdout."""
    shutil.copytree(CONFIG, folder)
    shutil.copy(FIELDS_OF.get(crm, CONFIG / "crm_fields.yml"), folder / "crm_fields.yml")
    options = {"max_batch": MAX_BATCH, "max_in_flight": MAX_IN_FLIGHT, "limits": []} | QUICK.get(crm, {})
    (folder / "crm.yml").write_text(yaml.safe_dump({crm: options}))
    vouchers = yaml.safe_load((folder / "vouchers.yml").read_text())
    vouchers["voucher"] |= {"valid_days": 1, "budget_per_run": 15, "budget_per_day": 40}
    (folder / "vouchers.yml").write_text(yaml.safe_dump(vouchers))
    fields = yaml.safe_load((folder / "crm_fields.yml").read_text())
    (folder / "crm_fields.yml").write_text(yaml.safe_dump(fields | {"tell_holdout": False}))


@contextmanager
def workshop() -> Iterator[Path]:
    """A folder for bases and trials, and an environment for their runs; the folder is deleted afterwards."""
    # Half of dbt's work in an hour is data tests, which are not places to die at.
    os.environ["DBT_EXCLUDE_RESOURCE_TYPES"] = "test"
    # dbt's locks are semaphores that a killed process never releases.
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"
    root = Path(tempfile.mkdtemp(prefix="winback-runs-"))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
