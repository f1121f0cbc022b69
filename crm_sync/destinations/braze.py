"""How does Braze take upserts, and what does it say of each row?

POST /users/track, https://www.braze.com/docs/api/endpoints/user_data/post_user_track/. A 201 means accepted, with an error for
each object that was not. Scores are attributes, never events: setting an attribute twice changes nothing, an event twice does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crm_sync.destination import Outcome
from crm_sync.destinations.transport import RateLimit, Reply, RetryBudget, Transport
from crm_sync.fields import Change

PATH = "/users/track"
MAX_BATCH = 75  # objects in one request
REQUESTS, PER_SECONDS = 3_000, 3.0  # Braze's limit for this endpoint, per workspace


class Braze:
    """A destination of crm_sync."""

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        limit: RateLimit | None = None,
        budget: RetryBudget | None = None,
        max_batch: int = MAX_BATCH,
    ) -> None:
        """Connect to a REST endpoint, for instance https://rest.fra-01.braze.eu."""
        self.max_batch = max_batch
        headers = {"Authorization": f"Bearer {api_key}"}
        self._transport = Transport(url, headers, limit or RateLimit(REQUESTS, PER_SECONDS), budget)

    def send(self, batch: Sequence[Change]) -> list[Outcome]:
        """Send one batch; see Destination."""
        objects = [{"external_id": change.external_id, **change.attributes} for change in batch]
        return verdicts(self._transport.post(PATH, {"attributes": objects}), len(batch))


def verdicts(reply: Reply, count: int) -> list[Outcome]:
    """Read Braze's word for each of `count` rows from a reply."""
    errors = reply.body.get("errors") or []
    if reply.body.get("message") not in ("success", "queued") or not isinstance(errors, list):
        # A success by status that does not say success: nothing is known, so nothing counts as delivered.
        return [Outcome("rejected", reply.status, "unknown_reply")] * count
    outcomes = [Outcome("delivered", reply.status)] * count
    for error in errors:
        index = error.get("index") if isinstance(error, dict) else None
        if type(index) is not int or not 0 <= index < count or error.get("input_array") != "attributes":
            return [Outcome("rejected", reply.status, "unknown_error_shape")] * count
        outcomes[index] = Outcome("rejected", reply.status, _code(error))
    return outcomes


def _code(error: dict[str, Any]) -> str:
    """Braze's sentence as a code: it may quote what was sent, so only its plain words, like external_id, are kept."""
    text = str(error.get("type", "unknown")).split(":")[0].split("'")[0]
    words = [word.strip(".,;!?()") for word in text.lower().split()]
    return "_".join([word for word in words if word.replace("_", "").isalpha()][:8]) or "unknown"
