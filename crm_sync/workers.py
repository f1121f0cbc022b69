"""Worker threads: several batches in flight at once, outcomes handled in one place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(Generic[Item, Result]):
    """Calls `act` in other threads, at most `count` at once. Results arrive in the order in which they are ready.

    The threads are daemons, so that a stopped run can end while a request still hangs.
    """

    def __init__(self, act: Callable[[Item], Result], count: int) -> None:
        self._act, self._count = act, count
        self._todo: SimpleQueue[Item | None] = SimpleQueue()
        self._done: SimpleQueue[Result | BaseException] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.in_flight = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in self._threads:
            self._todo.put(None)

    @property
    def is_full(self) -> bool:
        """Whether another item would have to wait."""
        return self.in_flight >= self._count

    def submit(self, item: Item) -> None:
        """Hand over an item."""
        self.in_flight += 1
        self._todo.put(item)
        if len(self._threads) < min(self._count, self.in_flight):
            thread = threading.Thread(target=self._work, name="crm-sync", daemon=True)
            self._threads.append(thread)
            thread.start()

    def next(self, seconds: float) -> Result | None:
        """Return the next result, or None if there is none within this many seconds.

        Raises: whatever `act` raised.
        """
        try:
            result = self._done.get(timeout=seconds)
        except Empty:
            return None
        self.in_flight -= 1
        if isinstance(result, BaseException):
            raise result
        return result

    def _work(self) -> None:
        while (item := self._todo.get()) is not None:
            try:
                self._done.put(self._act(item))
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that calls next()
                self._done.put(error)
