"""Lease guard: renews the lease while a run works, and releases or expires it at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from core.errors import WinbackError
from jobs.context import JobContext
from warehouse import lease as leases

# A run may take this much longer than its sending deadline, for the audience, the log and the report.
_BEYOND_DEADLINE = timedelta(minutes=15)


@dataclass
class LeaseGuard:
    """A lease that is renewed while a run works. `build_from` (UTC) is where the build of the run must begin."""

    context: JobContext
    build_from: datetime
    lease: leases.Lease | None = None
    may_have_interleaved: bool = False
    _length: timedelta = field(init=False)

    def __post_init__(self) -> None:
        self._length = timedelta(seconds=self.context.settings.lease_seconds)

    def keep(self) -> None:
        """Renew the lease once a third of it has passed; call it between steps and between batches.

        Raises: RetryableError if another run took over.
        """
        now = self.context.now()
        if self.lease and self._length and now >= self.lease.taken_at + self._length / 3:
            self.lease = leases.renew(self.context.warehouse, self.lease, now, self._length)


@contextmanager
def leased(context: JobContext, run_id: str, window_from: datetime) -> Iterator[LeaseGuard]:
    """Hold the lease for a run whose window begins at `window_from`, UTC, and release it when the run succeeded.

    If the run failed, or another run may have written meanwhile (`may_have_interleaved`), the lease only expires. The next run
    then rebuilds from where this one began. A warehouse that allows one process at a time works without a lease.

    Raises: RunInProgressError while another run holds the lease.
    """
    if context.warehouse.is_exclusive:
        yield LeaseGuard(context, window_from)
        return
    length = timedelta(seconds=context.settings.lease_seconds)
    lease = leases.take(context.warehouse, run_id, window_from, context.now(), length)
    longest = timedelta(seconds=context.settings.run_deadline_seconds) + _BEYOND_DEADLINE
    unfinished = leases.unfinished_from(context.warehouse, lease, longest)
    held = LeaseGuard(context, min(window_from, unfinished or window_from), lease)
    try:
        yield held
    except BaseException:
        # The run failed. Expire the lease now, so that the next run can start and rebuild.
        _expire(held)
        raise
    if held.may_have_interleaved:
        _expire(held)
    elif held.lease:
        leases.release(context.warehouse, held.lease, context.now())


def _expire(held: LeaseGuard) -> None:
    """End the lease now, if the warehouse still responds."""
    try:
        if held.lease:
            leases.renew(held.context.warehouse, held.lease, held.context.now(), timedelta(0))
    except WinbackError:
        return  # it expires by itself
