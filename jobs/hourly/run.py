"""One run: window, features, score, decide, commit, audience, sync, report.

Killed anywhere, the next run continues from the tables alone: nothing counts before `ops.runs` has the epoch's row, and every
step after that is taken again from what the last report says was done.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from core.errors import CircuitOpenError, ContractError, WinbackError
from crm_sync.sync import SyncCounts
from jobs.context import JobContext
from jobs.hourly.deliver import deliver, make_sync_plan, rehearse
from jobs.hourly.lease_guard import leased
from jobs.hourly.shadow import ShadowResult, discard_shadow, shadow_run
from jobs.hourly.window import end_of_window, window_to_build
from jobs.models.lifecycle import choose
from jobs.transform.dbt import Window
from jobs.transform.shape import written
from jobs.transform.watermark import committed
from scoring.batch import Run, ScoringCounts, score
from scoring.model import Model
from warehouse import ledger
from warehouse.tables import DECISIONS


@dataclass(frozen=True)
class IngestedEvents:
    """Events loaded in the window. Late: after their session had been closed by the gap; too late: they change no session.

    `sharing_id` have the id of another user's, name's or day's event, and count; `differing` are copies that contradict the copy
    that arrived first, and do not. `users_session_too_long` is of users: those set aside for a session past the maximum.
    `profiles_late` are versions of profiles that came more than max_lateness_days after they were written, `withdrawals_late`
    those among them that take consent away.
    `set_aside` lack event_id, user_id or occurred_at, and are not among the others.
    """

    events: int = 0
    late: int = 0
    too_late: int = 0
    sharing_id: int = 0
    differing: int = 0
    users_session_too_long: int = 0
    set_aside: int = 0
    profiles_late: int = 0
    withdrawals_late: int = 0


@dataclass(frozen=True)
class Result:
    """What a run did. `stopped` says why it left early, and its exit code says what to do.

    `model_fallback` says why the model is the last verified one on disk, where the registry could not be asked.
    """

    run_id: str
    epoch: int
    window_from: datetime
    window_until: datetime
    arrivals: IngestedEvents
    scoring: ScoringCounts | None
    model_version: str | None
    model_fallback: str | None
    shadow: ShadowResult | None
    sync: SyncCounts
    seconds: float
    is_dry_run: bool
    stopped: WinbackError | None = None

    def as_dict(self) -> dict[str, Any]:
        """One machine-readable object."""
        # Without the error: asdict copies what it holds, and not every error can be copied.
        plain = asdict(replace(self, stopped=None)) | {"stopped": str(self.stopped) if self.stopped else None}
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in plain.items()}


def hourly(
    context: JobContext, until: datetime | None = None, *, dry_run: bool = False, accept_audience: bool = False
) -> Result:
    """Run once, up to `until` (UTC; default now minus the safety lag, to the minute).

    A dry run builds, scores and decides, but commits nothing; of what was pending before it says what would be sent. A person who
    has looked may accept an audience that has collapsed.

    Raises: ContractError (no history, `until` before the watermark, no model, broken contract), WatermarkAheadError,
    RetryableError (a failing build).
    """
    started_at, started = context.now(), context.monotonic()
    _, last = committed(context)
    until = end_of_window(context, until, last, started_at)
    # A run that waits for this one's lease reads from its id whether this one does the work of an hour (warehouse/lease.py).
    name = "dry-run" if dry_run else f"{started_at:%Y%m%dT%H%M%SZ}"
    run = Run(f"{last.epoch + 1:08d}-{name}-{uuid.uuid4().hex[:8]}", last.epoch + 1, until)
    with leased(context, run.run_id, last.window_until) as held:
        window = window_to_build(context, held.build_from, last, until)
        transform = context.transform(window)
        scoring, model_version, fallback, shadow, epoch = None, None, None, None, last
        if until > last.window_until:
            context.reporter.step("Building features", window_from=window.from_at, window_until=until)
            transform.build("features")
            held.keep()
            try:
                scoring, model_version, fallback = _score(context, run)
            except ContractError:
                held.keep()  # overtaken amid it, it saw another run's candidates: then that is what to tell
                raise
            held.keep()
            if dry_run:
                context.warehouse.discard(DECISIONS, run_id=run.run_id, decided_at=until)
                held.may_have_interleaved = window.from_at < last.window_until  # it builds no audience
            else:
                shadow = shadow_run(context, run, model_version)
                held.keep()
                epoch = _commit(context, run, last, scoring, model_version)
                held.may_have_interleaved = epoch.run_id != run.run_id
        elif window.from_at < last.window_until:
            held.may_have_interleaved = True  # what an earlier run left half done still is: no window, no build
        plan = make_sync_plan(
            context, run.run_id, epoch, started, None if accept_audience else ledger.last_audience(context.warehouse)
        )
        counts, stopped = rehearse(context, plan) if dry_run else deliver(context, held, transform, plan, started_at)
        result = Result(
            run_id=run.run_id,
            epoch=epoch.epoch,
            window_from=last.window_until,
            window_until=until,
            arrivals=_arrivals(context, window),
            scoring=scoring,
            model_version=model_version,
            model_fallback=fallback,
            shadow=shadow,
            sync=counts,
            seconds=round(context.monotonic() - started, 2),
            is_dry_run=dry_run,
            stopped=stopped,
        )
        if not dry_run:
            _report(context, result, started_at)
    told = result.as_dict()
    told["sync"].pop("samples")  # for the person who asked for a dry run, not for the log: they hold a user's values
    context.reporter.report(**told)
    return result


def _score(context: JobContext, run: Run) -> tuple[ScoringCounts, str, str | None]:
    chosen = choose(context.settings)
    if chosen.fallback:
        context.reporter.warn(chosen.fallback, model_version=chosen.bundle.version)
    model = Model(chosen.bundle, threads=context.settings.threads)
    counts = score(context.warehouse, model, context.policy, run, advance=context.reporter.progress("Scoring", None))
    return counts, chosen.bundle.version, chosen.fallback


def _commit(
    context: JobContext, run: Run, last: ledger.Epoch, scoring: ScoringCounts, model_version: str
) -> ledger.Epoch:
    mine = ledger.Epoch(
        epoch=run.epoch,
        run_id=run.run_id,
        kind="hourly",
        window_from=last.window_until,
        window_until=run.decided_at,
        count_exits=scoring.exits,
        count_scored=scoring.scored,
        count_skipped=sum(scoring.skipped.values()),
        count_eligible=scoring.eligible,
        committed_at=context.now(),
        model_version=model_version,
        policy_version=context.policy.version,
        funnel=written(context.funnel),
    )
    winner = ledger.commit(context.warehouse, mine)
    if winner.run_id != run.run_id:
        context.warehouse.discard(DECISIONS, run_id=run.run_id, decided_at=run.decided_at)
        discard_shadow(context, run)
    return winner


def _arrivals(context: JobContext, window: Window) -> IngestedEvents:
    """What the build of the window counted; nothing when nothing was built."""
    if window.until_at == window.arrivals_from:
        return IngestedEvents()
    sql = f"""
        select count_events as events, count_events_late as late, count_events_too_late as too_late,
            count_events_sharing_id as sharing_id, count_events_differing as differing,
            count_users_session_too_long as users_session_too_long, coalesce(count_events_set_aside, 0) as set_aside,
            coalesce(count_profiles_late, 0) as profiles_late, coalesce(count_withdrawals_late, 0) as withdrawals_late
        from {context.warehouse.relation("marts", "fct_arrivals")}
        where window_from = $from_at
    """
    rows = context.warehouse.query(sql, {"from_at": window.arrivals_from}).to_pylist()
    return IngestedEvents(**rows[0]) if rows else IngestedEvents()


def _report(context: JobContext, result: Result, started_at: datetime) -> None:
    ledger.write_report(
        context.warehouse,
        ledger.Report(
            run_id=result.run_id,
            epoch=result.epoch,
            window_until=result.window_until,
            started_at=started_at,
            ended_at=context.now(),
            count_events=result.arrivals.events,
            count_events_late=result.arrivals.late,
            count_events_too_late=result.arrivals.too_late,
            count_delivered=result.sync.delivered,
            count_rejected=result.sync.rejected,
            count_deferred=sum(result.sync.deferred.values()),
            count_suppressed=sum(result.sync.suppressed.values()),
            count_unchanged=result.sync.unchanged,
            stopped_because=str(result.stopped) if result.stopped else None,
            # Of a run that the breaker stopped nothing is learned: the next is compared with the one before.
            count_audience=None if isinstance(result.stopped, CircuitOpenError) else result.sync.audience,
        ),
    )
