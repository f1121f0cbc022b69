"""The run: build features, score, decide, commit, build the audience, sync, report.

After a crash at any point the next run continues from the tables alone. Nothing counts before `ops.runs` has the row of the
epoch. Every later step is repeated, starting from the last report.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from core.errors import CircuitOpenError, ContractError, WinbackError
from crm_sync.sync import SyncCounts
from jobs.context import JobContext
from jobs.crm_state.check import adopt_crm, check_crm
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
    """Counts of events loaded in the window. Late events arrived after the gap had closed their session.

    Too late events change no session.

    `sharing_id` events have the id of another event with a different user, name or day, and are used. `differing` events are
    copies that contradict the first copy, and are ignored. `users_session_too_long` counts users set aside because of a session
    above the maximum. `profiles_late` counts profile versions that came more than max_lateness_days after they were written;
    `withdrawals_late` counts those of them that withdraw consent. `set_aside` events lack event_id, user_id or occurred_at, and
    no other count includes them.
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
    """The result of a run. `stopped` is the error that ended it early, with its exit code.

    `model_fallback` is the reason why the run used the last verified model on disk: the registry was unreachable.
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
        """Return the result for JSON."""
        # Without the error, because asdict copies every value and some errors cannot be copied.
        plain = asdict(replace(self, stopped=None)) | {"stopped": str(self.stopped) if self.stopped else None}
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in plain.items()}


def hourly(
    context: JobContext, until: datetime | None = None, *, dry_run: bool = False, accept_audience: bool = False
) -> Result:
    """Run once, up to `until` (UTC; default now minus the safety lag, to the minute).

    A dry run builds, scores and decides, but commits nothing; it shows what would be sent of the rows that were already pending.
    With `accept_audience` the sync accepts an audience that has collapsed; a person must have checked it.

    Raises: ContractError (no history, another CRM, `until` before the watermark, no model, broken contract), WatermarkAheadError,
    RetryableError (a failed build).
    """
    started_at, started = context.now(), context.monotonic()
    _, last = committed(context)
    until = end_of_window(context, until, last, started_at)
    # Another run that waits for the lease reads from this id whether this is an hourly run (warehouse/lease.py).
    name = "dry-run" if dry_run else f"{started_at:%Y%m%dT%H%M%SZ}"
    run = Run(f"{last.epoch + 1:08d}-{name}-{uuid.uuid4().hex[:8]}", last.epoch + 1, until)
    with leased(context, run.run_id, last.window_until) as held:
        crm = check_crm(context) if dry_run else adopt_crm(context)
        window = replace(window_to_build(context, held.build_from, last, until), crm_since=crm.state_from)
        transform = context.transform(window)
        scoring, model_version, fallback, shadow, epoch = None, None, None, None, last
        if until > last.window_until:
            context.reporter.step("Building features", window_from=window.from_at, window_until=until)
            transform.build("features")
            held.keep()
            try:
                scoring, model_version, fallback = _score(context, run)
            except ContractError:
                held.keep()  # if another run took the lease, report that: the contract error is a symptom
                raise
            held.keep()
            if dry_run:
                context.warehouse.discard(DECISIONS, run_id=run.run_id, decided_at=until)
                held.may_have_interleaved = window.from_at < last.window_until  # a dry run builds no audience
            else:
                shadow = shadow_run(context, run, model_version)
                held.keep()
                epoch = _commit(context, run, last, scoring, model_version)
                held.may_have_interleaved = epoch.run_id != run.run_id
        elif window.from_at < last.window_until:
            held.may_have_interleaved = True  # no new window and no build: what an earlier run left is not rebuilt yet
        plan = make_sync_plan(
            context, run.run_id, epoch, started, None if accept_audience else ledger.last_audience(context.warehouse)
        )
        counts, stopped = (
            rehearse(context, plan)
            if dry_run
            else deliver(context, held, transform, plan, started_at, crm_number=crm.number)
        )
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
    told["sync"].pop("samples")  # samples hold values of users: show them on the terminal, never in the log
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
    """Return the counts that the build of the window wrote, or zeros if nothing was built."""
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
            # The audience of a run that the circuit breaker stopped is not a baseline: the next run compares with the run before.
            count_audience=None if isinstance(result.stopped, CircuitOpenError) else result.sync.audience,
        ),
    )
