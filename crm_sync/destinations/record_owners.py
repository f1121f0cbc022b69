"""Record owners: the user of each of the CRM's records in a run, to detect two users that share one record."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

COLLISION = "collision"
MAX_RECORDS = 200_000  # remembered in a run; they take 30 MB


class RecordOwners:
    """The user that each record was returned for in this run. Shared by all threads."""

    def __init__(self) -> None:
        self._users: dict[str, str] = {}
        self._lock = threading.Lock()

    def collisions(self, records: Mapping[str, str]) -> set[str]:
        """Return the users of a batch whose record also belongs to another user, in this batch or an earlier one.

        `records` maps external ids to the ids of the CRM's records.
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
