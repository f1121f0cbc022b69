"""Handlers for SIGTERM and Ctrl-C.

Cloud Run sends SIGTERM and kills the process ten seconds later: https://cloud.google.com/run/docs/container-contract#termination.
A command stops where it is, because every step can be repeated. During the sync, a run sends no further batch and logs what
the CRM acknowledged.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from crm_sync.deadline import Deadline

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[list[signal.Signals]]:
    """Make SIGTERM interrupt a command as Ctrl-C does; yields the list of received signals.

    dbt reports an interruption as a failure of its own, so the error of a command does not show that it was interrupted.
    """
    came: list[signal.Signals] = []

    def leave(number: int, _: FrameType | None) -> None:
        came.append(signal.Signals(number))
        raise KeyboardInterrupt

    with _handled_by(leave):
        yield came


@contextmanager
def stop_on_signals(run: Deadline) -> Iterator[None]:
    """Make SIGTERM and Ctrl-C stop the run cleanly; a second signal has its usual effect."""
    before = {which: signal.getsignal(which) for which in _SIGNALS}

    def leave(number: int, _: FrameType | None) -> None:
        run.stop(signal.Signals(number).name)
        signal.signal(number, before[signal.Signals(number)])

    with _handled_by(leave):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    before = {which: signal.signal(which, handler) for which in _SIGNALS}
    try:
        yield
    finally:
        for which, earlier in before.items():
            signal.signal(which, earlier)
