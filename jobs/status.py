"""How is it going: watermark, last runs, what is pending and rejected, which model?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from crm_sync.sync import count_pending
from jobs.house import House
from scoring import bundles
from warehouse import ledger


@dataclass(frozen=True)
class Status:
    """One look at the tables; times UTC."""

    watermark: datetime | None
    count_epochs: int
    model_version: str | None
    pending: int
    dead_letters: int
    voucher_eligible: int
    epochs: list[ledger.Epoch]
    reports: list[ledger.Report]

    def as_dict(self) -> dict[str, Any]:
        """One machine-readable object."""
        return {
            "watermark": self.watermark,
            "count_epochs": self.count_epochs,
            "model_version": self.model_version,
            "pending": self.pending,
            "dead_letters": self.dead_letters,
            "voucher_eligible": self.voucher_eligible,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "reports": [asdict(report) for report in self.reports],
        }


def status(house: House, *, last: int = 5) -> Status:
    """Read the state; changes nothing."""
    warehouse = house.warehouse
    epochs = ledger.epochs(warehouse, last)

    def count(name: str, where: str) -> int:
        if not warehouse.exists("marts", name):
            return 0
        sql = f"select count(*) as n from {warehouse.relation('marts', name)} where {where}"
        return int(warehouse.query(sql).column("n")[0].as_py())

    return Status(
        watermark=epochs[0].window_until if epochs else None,
        count_epochs=epochs[0].epoch + 1 if epochs else 0,
        model_version=bundles.champion(house.settings.models),
        pending=count_pending(warehouse) if warehouse.exists("marts", "crm_pending") else 0,
        dead_letters=count("crm_acknowledged", "rejected_hash is not null"),
        voucher_eligible=count("crm_profiles", "is_voucher_eligible"),
        epochs=epochs,
        reports=ledger.reports(warehouse, last),
    )
