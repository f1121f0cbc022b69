"""A sequence of syncs through hours, faults and crashes: the job's own steps around each sync, without the rest of the job.

Folding, the ledger, the window and dead letters are the job's own code. The test sets the desired state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa

from crm_sync.deadline import Deadline
from crm_sync.delivery_log import DeliveryLog
from crm_sync.destination import Destination
from crm_sync.field_mapping import FieldMapping
from crm_sync.suppression import Recheck
from crm_sync.sync import Plan, SyncCounts, sync
from jobs.context import JobContext
from jobs.hourly.window import window_to_build
from jobs.transform.dbt import Window
from jobs.upkeep.dead_letters import retry
from sandbox.local_crm.faults import Fault
from sandbox.local_crm.server import LocalCrm
from tests.support.sync.builders import MAPPING, Time
from tests.support.sync.recorder import Killed, MortalWarehouse, Sync, Trouble, Witness, faults_of
from tests.support.sync.tables import SyncTables
from warehouse import ledger
from warehouse.tables import APP_EVENTS, ERASURES, USERS, Table

START = datetime(2026, 6, 15, 10, tzinfo=UTC)
OUTCOMES = {"filing_submitted": "finished", "filing_deleted": "gave_up"}


class Hours:
    """A sequence of syncs over the same tables and the same CRM.

    `now` advances by a second with every reading; `time` is monotonic and advances by waits. `voucher` and `score` are the
    CRM's names of these fields. `fields` maps the CRM's names to ours. `kept` maps the local CRM's names, which are those of
    config/crm_fields.yml, to ours.
    """

    def __init__(
        self,
        tables: SyncTables,
        crm: LocalCrm,
        connect: Callable[[str], Destination],
        mapping: FieldMapping = MAPPING,
        time: Time | None = None,
    ) -> None:
        self.tables, self.crm, self.mapping, self._connect = tables, crm, mapping, connect
        self.time = time or Time()
        self.fields = {target.property: name for name, target in mapping.fields.items()}
        self.kept = {target.property: name for name, target in MAPPING.fields.items()}
        self.voucher, self.score = (mapping.fields[n].property for n in ("is_voucher_eligible", "churn_probability"))
        self.begin()

    def begin(self) -> None:
        """Reset everything; history ended an hour ago."""
        self.tables.forget()
        with self.crm.store.database.transaction() as db:
            for table in ("profiles", "writes", "runs", "deletions"):
                db.execute(f"delete from {table}")
        self.calm()
        self._clock, self._number, self._epoch = START - timedelta(hours=1), 0, -1
        self.syncs: list[Sync] = []
        self.hour()

    def now(self) -> datetime:
        """The true time."""
        self._clock += timedelta(seconds=1)
        return self._clock

    @property
    def until(self) -> datetime:
        """The watermark."""
        return self._last.window_until

    def hour(self) -> None:
        """A run commits the next epoch; its window ends now."""
        self._clock += timedelta(hours=1)
        self._epoch += 1
        before = self._last.window_until if self._epoch else START - timedelta(days=60)
        self._last: ledger.Epoch = ledger.commit(
            self.tables.warehouse,
            ledger.Epoch(
                epoch=self._epoch,
                run_id=f"run-{self._epoch}",
                kind="hourly",
                window_from=before,
                window_until=self._clock,
                count_exits=0,
                count_scored=0,
                count_skipped=0,
                count_eligible=0,
                committed_at=self._clock,
            ),
        )

    def calm(self) -> None:
        """Clear the CRM's faults."""
        with self.crm.desk.lock:
            self.crm.desk.faults.waiting.clear()

    # Arrivals from the app

    def happens(self, user: str, name: str) -> None:
        """Load an event that ends a journey."""
        at = self.now()
        row = {"event_id": f"{user}-{at}", "user_id": user, "event_name": name, "occurred_at": at, "loaded_at": at}
        self._append(APP_EVENTS, row)

    def profile(self, user: str, *, consent: bool = True, is_erased: bool = False) -> None:
        """Load a profile."""
        at = self.now()
        row = {"user_id": user, "created_at": START, "updated_at": at, "marketing_consent": consent}
        self._append(USERS, row | {"erased_at": at if is_erased else None})

    def bury(self, user: str) -> None:
        """Begin `winback erase`, which writes a tombstone before anything else."""
        ((digest,),) = self.tables.rows(f"select {self.tables.warehouse.user_hash(repr(user))}")
        at = self.now()
        row = {"erasure_id": digest[:8], "user_hash": digest, "requested_at": at, "recorded_at": at}
        self._append(ERASURES, row | {"step": "tombstone", "outcome": "written"})

    def _append(self, table: Table, row: dict[str, Any]) -> None:
        self.tables.warehouse.append(table, pa.Table.from_pylist([row], schema=table.schema))

    # Steps of the job

    def context(self, now: Callable[[], datetime]) -> JobContext:
        """Return the parts of a job context that the ledger's windows and dead letters need."""

        def transform(window: Window) -> Any:
            return SimpleNamespace(build=lambda _: self.tables.fold(window))

        parts = {"warehouse": self.tables.warehouse, "now": now, "transform": transform, "crm": "braze local"}
        return cast("JobContext", SimpleNamespace(**parts))

    def retry(self) -> int:
        """Do `winback dead-letters retry`."""
        return retry(self.context(self.now))

    def recheck(self, warehouse: Any, now: Callable[[], datetime]) -> Recheck:
        """Return what is known since the watermark."""
        return Recheck(warehouse, self.until, OUTCOMES, now)

    def sync(
        self, trouble: Trouble | None = None, *, ahead: timedelta = timedelta(), faults: Sequence[Fault] = ()
    ) -> Sync:
        """Build the audience's tables, sync, fold and report, as a run whose clock is `ahead` of the true one.

        `faults` hit the CRM's requests of this sync, in addition to those of the trouble.
        """
        trouble = trouble or Trouble()
        self._number += 1
        now: Callable[[], datetime] = lambda: self.now() + ahead  # noqa: E731
        started_at = now()
        window = window_to_build(self.context(now), self.until, self._last, self.until)
        self.tables.fold(window)
        ((pending,),) = self.tables.rows("select count(*) from marts.crm_pending")
        held = self.crm.store.profiles().items()
        with_voucher = frozenset(user for user, has in held if str(has.get("voucher_eligible")).lower() == "true")
        seen = Sync(f"{self._epoch:08d}-{self._number:04d}", trouble, pending, with_voucher, self.voucher)
        self.syncs.append(seen)
        with self.crm.desk.lock:
            self.crm.desk.faults.waiting += [*faults, *faults_of(trouble)]
        counts = self._send(seen, now)
        if counts is None:
            return seen
        if trouble.is_folded:
            if counts.delivered or counts.rejected:
                self.tables.fold(window)
            self._report(seen, counts, started_at, now())
        return seen

    def _send(self, seen: Sync, now: Callable[[], datetime]) -> SyncCounts | None:
        warehouse = MortalWarehouse(self.tables, seen)
        run = Deadline(seen.run_id, 3_600, clock=self.time, wait=self.time.add)
        destination = Witness(self._connect(self.crm.url), seen, *self._hooks(seen, run))
        plan = Plan(
            run_id=seen.run_id,
            epoch=self._epoch,
            run=run,
            now=now,
            recheck=self.recheck(warehouse, now),
            max_rejected_ratio=1.0,
        )
        log = DeliveryLog(warehouse, seen.run_id, self._epoch, now)
        try:
            seen.counts, seen.stopped = sync(warehouse, destination, self.mapping, plan, log=log)
        except Killed:
            seen.is_killed = True
        finally:
            self.calm()
            destination.close()
            warehouse.connection.close()
        return seen.counts

    def _hooks(self, seen: Sync, run: Deadline) -> tuple[Callable[[int], None], Callable[[int], None]]:
        trouble = seen.trouble

        def before(number: int) -> None:
            if number == trouble.at and (trouble.kind, trouble.place) == ("killed", "before the request"):
                seen.die()

        def after(number: int) -> None:
            if number != trouble.at:
                return
            if (trouble.kind, trouble.place) == ("killed", "after the reply"):
                seen.die()
            if trouble.kind == "stopped":
                run.stop("SIGTERM")
            elif trouble.kind == "deadline":
                self.time.add(3_600)
            elif trouble.kind == "overtaken":
                self.sync(Trouble(is_folded=trouble.is_folded))

        return before, after

    def _report(self, seen: Sync, counts: SyncCounts, started_at: datetime, ended_at: datetime) -> None:
        ledger.write_report(
            self.tables.warehouse,
            ledger.Report(
                run_id=seen.run_id,
                epoch=self._epoch,
                window_until=self.until,
                started_at=started_at,
                ended_at=ended_at,
                count_events=0,
                count_events_late=0,
                count_events_too_late=0,
                count_delivered=counts.delivered,
                count_rejected=counts.rejected,
                count_deferred=sum(counts.deferred.values()),
                count_suppressed=sum(counts.suppressed.values()),
                count_unchanged=counts.unchanged,
            ),
        )
