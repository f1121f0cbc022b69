"""What does a run do when the platform tells it to leave?

Cloud Run sends SIGTERM and kills ten seconds later: https://cloud.google.com/run/docs/container-contract#termination.
Before the sync a run simply dies, which the crash laws allow; in the sync it takes no further batch and logs what was
acknowledged.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from crm_sync.deadline import Deadline


@contextmanager
def stopped_by_signals(run: Deadline) -> Iterator[None]:
    """Have SIGTERM and Ctrl-C stop the run in good order; a second one has its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread, which is not ours to speak for
        return
    before = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)}

    def leave(number: int, _: FrameType | None) -> None:
        run.stop(signal.Signals(number).name)
        signal.signal(number, before[signal.Signals(number)])

    for which in before:
        signal.signal(which, leave)
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
