"""`winback repair-watermark` on BigQuery: the same result as on DuckDB."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import pyarrow as pa

from jobs.upkeep.repair_watermark import repair_watermark
from tests.support.bigquery_emulator.process import Emulator
from tests.support.bigquery_environment import connection_to, with_raw_tables
from tests.support.environment import World, at
from warehouse import ledger
from warehouse.bigquery.warehouse import BigQueryWarehouse
from warehouse.tables import DECISIONS, ERASURES, RUNS, VOUCHER_REDEMPTIONS

AHEAD = timedelta(days=400)


def decision(exit_id: str, epoch: int, decided_at: Any, **more: Any) -> dict[str, Any]:
    return {
        "exit_id": exit_id,
        "user_id": f"user of {exit_id}",
        "exited_at": at(0),
        "run_id": f"run-{epoch}",
        "epoch": epoch,
        "decided_at": decided_at,
        "disposition": "scored",
        "is_eligible": False,
        **more,
    }


def test_the_watermark_in_bigquery_goes_back_and_the_decisions_stay(
    world: World, emulator: Emulator, prefix: str
) -> None:
    granted = {"is_eligible": True, "valid_until": at(2) + AHEAD + timedelta(days=7)}
    rows = [
        decision("good", 1, at(1)),
        decision("granted", 2, at(2) + AHEAD, **granted),
        decision("skipped", 2, at(2) + AHEAD, disposition="skipped", skip_reason="finished"),
        decision("never committed", 3, at(2) + AHEAD),
        decision("erased", 2, at(2) + AHEAD),
    ]
    with (
        closing(with_raw_tables(emulator, prefix)) as warehouse,
        world.context(now=lambda: at(3)) as context,
    ):
        for number, until in enumerate((at(0), at(1), at(2) + AHEAD)):
            kind = "hourly" if number else "backfill"
            row = ledger.Epoch(number, f"run-{number}", kind, until, until, 0, 0, 0, 0, until)
            assert warehouse.append_once(RUNS, asdict(row))
        warehouse.append(DECISIONS, pa.Table.from_pylist(rows, schema=DECISIONS.schema))
        erased = warehouse.query(f"select {warehouse.user_hash('x')} as hash from (select 'user of erased' as x)")
        tombstone = {
            "erasure_id": "e",
            "user_hash": erased.column("hash")[0].as_py(),
            "requested_at": at(2),
            "recorded_at": at(2),
            "step": "tombstone",
            "outcome": "written",
        }
        warehouse.append(ERASURES, pa.Table.from_pylist([tombstone], schema=ERASURES.schema))
        redeemed = {"redemption_id": "r", "user_id": "u", "campaign": "c", "redeemed_at": at(2), "loaded_at": at(4)}
        warehouse.append(VOUCHER_REDEMPTIONS, pa.Table.from_pylist([redeemed], schema=VOUCHER_REDEMPTIONS.schema))
        there = replace(context, warehouse=warehouse)

        planned = repair_watermark(there, dry_run=True)
        repaired = repair_watermark(there)
        again = repair_watermark(there)

    assert replace(planned, epoch=3, is_dry_run=False) == repaired
    assert (repaired.watermark, repaired.count_decisions, repaired.count_vouchers) == (at(1), 2, 1)
    assert repaired.count_rows_ahead == {"raw.voucher_redemptions": 1}
    assert (again.is_needed, again.watermark) == (False, at(1))
    with closing(BigQueryWarehouse(connection_to(emulator, prefix))) as warehouse:
        first, last = ledger.history(warehouse, at(3))
        runs = warehouse.query(
            f"select epoch, kind from ({ledger.counting(warehouse)}) as runs order by epoch"
        ).to_pylist()
        sql = f"""
            select exit_id, decided_at, valid_until, disposition, skip_reason
            from {warehouse.relation("ops", "decisions")}
            where decided_at >= timestamp '2026-01-01' and run_id = $run_id order by exit_id
        """
        copies = warehouse.query(sql, {"run_id": last.run_id}).to_pylist()
    decided_at = at(3) - timedelta(minutes=2)
    assert (first.epoch, last.epoch, last.kind, last.window_until) == (0, 3, "repair", at(1))
    assert runs == [{"epoch": 0, "kind": "backfill"}, {"epoch": 1, "kind": "hourly"}, {"epoch": 3, "kind": "repair"}]
    assert [(row["exit_id"], row["decided_at"], row["valid_until"], row["skip_reason"]) for row in copies] == [
        ("granted", decided_at, decided_at + timedelta(days=7), None),
        ("skipped", decided_at, None, "finished"),
    ]
