"""Runs functions in forked processes, and stops, pauses or kills them.

The forking process must have no other threads: they would be missing in the child, and their locks might stay held.
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
    """A forked process that calls one function. `answer` is the return value after it ended with 0."""

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
        """Return the exit code; negative for a process ended by a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def wait_until_stopped(self) -> bool:
        """Wait until the process is paused; returns False if it ended instead."""
        return os.WIFSTOPPED(os.waitpid(self.pid, os.WUNTRACED)[1])

    def signal(self, sign: signal.Signals) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, sign)

    @property
    def answer(self) -> Any:
        """The return value."""
        return pickle.loads(self._answer.read_bytes())  # noqa: S301 - our own child wrote it

    @property
    def error(self) -> str:
        """The traceback of the error that ended it, if any."""
        file = self._answer.with_suffix(".error")
        return file.read_text() if file.exists() else ""


def in_a_child(act: Callable[[], object], folder: Path) -> Any:
    """Call a function in a process of its own and return its value. Raises: RuntimeError with its traceback."""
    child = Child(act, folder)
    if child.wait() != 0:
        raise RuntimeError(child.error)
    return child.answer


@contextmanager
def served(make: Callable[[], AbstractContextManager[Any]], told: Callable[[Any], Any], folder: Path) -> Iterator[Any]:
    """Start a server in a process of its own, and yield what it reports about itself."""
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
