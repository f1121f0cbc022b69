"""Ledger: of two runs that commit the same epoch one wins, and the other discards its rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jobs.hourly.run import hourly
from tests.support.environment import NOW, World, at
from warehouse import ledger
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.tables import DECISIONS, RUNS, Table

DECIDED = "select exit_id, run_id, churn_probability, is_eligible from staging.stg_ops__decisions order by exit_id"


def test_the_second_to_commit_an_epoch_adopts_the_first(world: World) -> None:
    with world.context() as context:
        last = ledger.last_epoch(context.warehouse)
        assert last is not None
        mine = replace(last, epoch=1, run_id="mine", window_from=at(0), window_until=at(1), committed_at=NOW)
        theirs = replace(mine, run_id="theirs", window_until=at(2))

        assert ledger.commit(context.warehouse, theirs) == theirs
        assert ledger.commit(context.warehouse, mine) == theirs
        assert ledger.last_epoch(context.warehouse) == theirs


def test_the_loser_of_two_runs_at_once_leaves_no_decision_and_sends_the_winner_s(world: World) -> None:
    """The winner commits between the loser's scoring and commit, with other decisions."""

    class Overtaken:
        """A warehouse in which another run is always a moment faster."""

        def __init__(self, warehouse: DuckDBWarehouse) -> None:
            self.warehouse = warehouse

        def __getattr__(self, name: str) -> Any:
            return getattr(self.warehouse, name)

        def append_once(self, table: Table, row: dict[str, Any]) -> bool:
            if table is not RUNS:
                return self.warehouse.append_once(table, row)
            staged = self.warehouse.query(f"select * from ops.decisions where run_id = '{row['run_id']}'")
            position = staged.column_names.index("run_id")
            theirs = staged.set_column(position, "run_id", [["winner"] * staged.num_rows])
            self.warehouse.append(DECISIONS, theirs)
            assert self.warehouse.append_once(table, row | {"run_id": "winner"})
            return self.warehouse.append_once(table, row)

    with world.context() as context:
        assert isinstance(context.warehouse, DuckDBWarehouse)
        result = hourly(replace(context, warehouse=Overtaken(context.warehouse)), at(1))

    decided = world.query(DECIDED)
    assert {d["run_id"] for d in decided} == {"winner"}
    assert world.query("select distinct run_id from ops.decisions") == [{"run_id": "winner"}]
    assert result.scoring is not None
    assert len(decided) == result.scoring.exits
    assert len({d["exit_id"] for d in decided}) == len(decided)
    assert len(world.crm.store.profiles()) == result.sync.delivered > 0
