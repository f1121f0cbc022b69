"""Destination for a dry run: it accepts everything and stores nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crm_sync.destination import Finding, Outcome, Run
from crm_sync.diff import Change
from crm_sync.field_mapping import Kind


class DryRunDestination:
    """A Destination. Its batches have the real destination's size, so that the number of requests is realistic."""

    max_in_flight = 1

    def __init__(self, max_batch: int) -> None:
        self.max_batch = max_batch

    def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        """Accept all."""
        run.check()
        return [Outcome("delivered")] * len(batch)

    def erase(self, external_ids: Sequence[str], run: Run) -> list[Outcome]:
        """Accept all."""
        run.check()
        return [Outcome("delivered")] * len(external_ids)

    def examine(self, properties: Mapping[str, Kind], run: Run) -> list[Finding]:  # noqa: ARG002 - the Protocol's names
        """Return no findings."""
        return []

    def close(self) -> None:
        """Do nothing: there are no connections."""
