"""Record owners: which user each of the CRM's records answered for, to notice two users who are one record there."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

COLLISION = "collision"
MAX_RECORDS = 200_000  # remembered in a run; they take 30 MB


class RecordOwners:
    """The user that each record answered for in this run. Shared by all threads."""

    def __init__(self) -> None:
        self._users: dict[str, str] = {}
        self._lock = threading.Lock()

    def collisions(self, records: Mapping[str, str]) -> set[str]:
        """Return the users of a batch whose record is another user's too, in this batch or in an earlier one.

        `records` are the ids of the CRM's records by external id.
        """
        users_of = Counter(records.values())
        found = set()
        with self._lock:
            for user, record in records.items():
                owner = self._users.get(record, user)
                if len(self._users) < MAX_RECORDS:
                    self._users[record] = owner
                if owner != user or users_of[record] > 1:
                    found.add(user)
        return found
