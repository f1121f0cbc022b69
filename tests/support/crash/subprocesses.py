"""How does a test have something done in a process of its own, by forking, and stop, pause or kill that process?

Whoever forks has no threads of its own: they would not be there in the child, and their locks might be held for ever.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any


class Child:
    """A forked process that does one thing. What it returns is `answer`, once it has ended with 0."""

    def __init__(self, act: Callable[[], object], folder: Path) -> None:
        self._answer = folder / f"answer-{time.monotonic_ns()}.pickle"
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._answer.write_bytes(pickle.dumps(act()))
            except BaseException:  # noqa: BLE001 - whatever it is must not go on in the parent's stead
                self._answer.with_suffix(".error").write_text(traceback.format_exc())
                os._exit(1)
            os._exit(0)

    def wait(self) -> int:
        """Return the exit code; of a signal's victim the signal's number, negative."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def wait_until_stopped(self) -> bool:
        """Wait until the process is paused; False when it ended instead."""
        return os.WIFSTOPPED(os.waitpid(self.pid, os.WUNTRACED)[1])

    def signal(self, sign: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, sign)

    @property
    def answer(self) -> Any:
        """What it returned."""
        return pickle.loads(self._answer.read_bytes())  # noqa: S301 - our own child wrote it

    @property
    def error(self) -> str:
        """The traceback of what ended it, if anything did."""
        file = self._answer.with_suffix(".error")
        return file.read_text() if file.exists() else ""


def in_a_child(act: Callable[[], object], folder: Path) -> Any:
    """Do it in a process of its own and return what it returns. Raises: RuntimeError with its traceback."""
    child = Child(act, folder)
    if child.wait() != 0:
        raise RuntimeError(child.error)
    return child.answer


@contextmanager
def served(make: Callable[[], AbstractContextManager[Any]], told: Callable[[Any], Any], folder: Path) -> Iterator[Any]:
    """Have a process of its own serve something, and yield what it tells of it."""
    parent, file = os.getpid(), folder / f"served-{time.monotonic_ns()}.pickle"

    def serve() -> None:
        def leave(*_: object) -> None:
            raise SystemExit

        signal.signal(signal.SIGTERM, leave)
        try:
            with make() as it:
                file.with_suffix(".part").write_bytes(pickle.dumps(told(it)))
                file.with_suffix(".part").rename(file)
                while os.getppid() == parent:
                    time.sleep(0.05)
        except SystemExit:
            return

    child = Child(serve, folder)
    while not file.exists():
        if os.waitpid(child.pid, os.WNOHANG)[0]:
            raise RuntimeError(child.error)
        time.sleep(0.01)
    try:
        yield pickle.loads(file.read_bytes())  # noqa: S301 - our own child wrote it
    finally:
        child.signal(signal.SIGTERM)
        child.wait()
