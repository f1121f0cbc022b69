"""One run: window, features, score, decide, commit, audience, sync, report.

Killed anywhere, the next run continues from the tables alone: nothing counts before `ops.runs` has the epoch's row, and every
step after that is taken again from what the last report says was done.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from crm_sync.sync import Plan, SyncCounts, count_pending, sync
from jobs.house import House, not_in_the_future
from jobs.narration import Advance
from jobs.transform import SINCE_EVER, Transform, Window
from scoring import bundles
from scoring.model import Model
from scoring.score import Run, ScoringCounts, score
from warehouse import ledger
from warehouse.errors import ContractError, WinbackError
from warehouse.tables import DECISIONS


@dataclass(frozen=True)
class Arrivals:
    """Events loaded in the window. Late: after their session had been closed by the gap; too late: they change no session."""

    events: int
    late: int
    too_late: int


@dataclass(frozen=True)
class Result:
    """What a run did. `stopped` says why it left early, and its exit code says what to do."""

    run_id: str
    epoch: int
    window_from: datetime
    window_until: datetime
    arrivals: Arrivals
    scoring: ScoringCounts | None
    model_version: str | None
    sync: SyncCounts
    seconds: float
    is_dry_run: bool
    stopped: WinbackError | None = None

    def as_dict(self) -> dict[str, Any]:
        """One machine-readable object."""
        plain = asdict(self) | {"stopped": str(self.stopped) if self.stopped else None}
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in plain.items()}


def hourly(house: House, until: datetime | None = None, *, dry_run: bool = False) -> Result:
    """Run once, up to `until` (UTC; default now minus the safety lag, to the minute).

    Raises: ContractError (no history, `until` before the watermark, no model, broken contract), RetryableError (a failing build).
    """
    started_at, started = house.now(), house.monotonic()
    first, last = ledger.history(house.warehouse)
    if until is None:
        lagged = started_at - timedelta(seconds=house.settings.safety_lag_seconds)
        until = max(lagged.replace(second=0, microsecond=0), last.window_until)
    if until < last.window_until:
        raise ContractError(
            f"Until {until:%Y-%m-%d %H:%M} lies before the watermark {last.window_until:%Y-%m-%d %H:%M}: that hour is decided."
        )
    if until > last.window_until:
        not_in_the_future(house, until)
    reported = ledger.last_report(house.warehouse)
    window = Window(
        from_at=last.window_until,
        until_at=until,
        history_until=first.window_until,
        profiles_from=reported.window_until if reported else first.window_until,
        fold_from_epoch=reported.epoch if reported else 0,
        # Whatever is not folded yet was attempted after that run began. A day: clocks of two machines may differ.
        fold_from_at=reported.started_at - timedelta(days=1) if reported else SINCE_EVER,
    )
    transform = house.transform(window)
    run_id = f"{last.epoch + 1:08d}-{started_at:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"

    scoring, model_version, epoch = None, None, last
    if until > last.window_until:
        house.narrator.step("Building features", window_from=window.from_at, window_until=until)
        transform.build("features")
        scoring, model_version = _score(house, Run(run_id, last.epoch + 1, until))
        if dry_run:
            house.warehouse.discard(DECISIONS, run_id=run_id, decided_at=until)
        else:
            epoch = _commit(house, run_id, window, scoring, model_version)

    if dry_run:
        counts, stopped = SyncCounts(pending=count_pending(house.warehouse)), None
    else:
        counts, stopped = _deliver(house, transform, run_id, epoch.epoch, started)
    result = Result(
        run_id=run_id,
        epoch=epoch.epoch,
        window_from=window.from_at,
        window_until=until,
        arrivals=_arrivals(house, window),
        scoring=scoring,
        model_version=model_version,
        sync=counts,
        seconds=round(house.monotonic() - started, 2),
        is_dry_run=dry_run,
        stopped=stopped,
    )
    if not dry_run:
        _report(house, result, started_at)
    house.narrator.report(**result.as_dict())
    return result


def _score(house: House, run: Run) -> tuple[ScoringCounts, str]:
    version = bundles.champion(house.settings.models)
    if version is None:
        raise ContractError(
            "The folder WINBACK_MODELS has no champion. Train a model (winback train), "
            "or put a bundle there and promote it (winback promote VERSION)."
        )
    model = Model(bundles.load_bundle(house.settings.models, version), threads=house.settings.threads)
    counts = score(house.warehouse, model, house.policy, run, advance=house.narrator.progress("Scoring", None))
    return counts, version


def _commit(house: House, run_id: str, window: Window, scoring: ScoringCounts, model_version: str) -> ledger.Epoch:
    mine = ledger.Epoch(
        epoch=int(run_id[:8]),
        run_id=run_id,
        kind="hourly",
        window_from=window.from_at,
        window_until=window.until_at,
        count_exits=scoring.exits,
        count_scored=scoring.scored,
        count_skipped=sum(scoring.skipped.values()),
        count_eligible=scoring.eligible,
        committed_at=house.now(),
        model_version=model_version,
        policy_version=house.policy.version,
    )
    winner = ledger.commit(house.warehouse, mine)
    if winner.run_id != run_id:
        house.warehouse.discard(DECISIONS, run_id=run_id, decided_at=window.until_at)
    return winner


def _deliver(
    house: House, transform: Transform, run_id: str, epoch: int, started: float
) -> tuple[SyncCounts, WinbackError | None]:
    """Bring the audience up to date, send what differs, and fold what the CRM said."""
    house.narrator.step("Building the audience", epoch=epoch)
    transform.build("audience")
    deadline = started + house.settings.run_deadline_seconds
    plan = Plan(
        run_id=run_id,
        epoch=epoch,
        max_rejected_ratio=house.settings.max_rejected_ratio,
        now=house.now,
        is_time_up=lambda: house.monotonic() > deadline,
    )

    def announce(pending: int) -> Advance:
        return house.narrator.progress("Sending to the CRM", pending)

    counts, stopped = sync(house.warehouse, house.destination, house.fields, plan, announce=announce)
    if counts.delivered or counts.rejected:
        transform.build("acknowledged")
    return counts, stopped


def _arrivals(house: House, window: Window) -> Arrivals:
    """What the build of the window counted; nothing when nothing was built."""
    if window.until_at == window.from_at:
        return Arrivals(events=0, late=0, too_late=0)
    sql = f"""
        select count_events as events, count_events_late as late, count_events_too_late as too_late
        from {house.warehouse.relation("marts", "fct_arrivals")}
        where window_from = $from_at
    """
    return Arrivals(**house.warehouse.query(sql, {"from_at": window.from_at}).to_pylist()[0])


def _report(house: House, result: Result, started_at: datetime) -> None:
    ledger.write_report(
        house.warehouse,
        ledger.Report(
            run_id=result.run_id,
            epoch=result.epoch,
            window_until=result.window_until,
            started_at=started_at,
            ended_at=house.now(),
            count_events=result.arrivals.events,
            count_events_late=result.arrivals.late,
            count_events_too_late=result.arrivals.too_late,
            count_delivered=result.sync.delivered,
            count_rejected=result.sync.rejected,
            count_deferred=result.sync.deferred,
            count_suppressed=result.sync.suppressed,
            count_unchanged=result.sync.unchanged,
            stopped_because=str(result.stopped) if result.stopped else None,
        ),
    )
