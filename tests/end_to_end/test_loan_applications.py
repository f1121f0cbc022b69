"""Loan applications: the whole job runs over real events with only another configuration."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score

from core.clock import UNIX_EPOCH
from crm_sync.destinations.braze import Braze
from jobs.context import open_context
from jobs.hourly.run import hourly
from jobs.models.train import train
from jobs.transform.dbt import Window
from jobs.upkeep.backfill import backfill
from sandbox.local_crm.server import LocalCrm
from tests.dbt.test_increments import built_by_dbt, differences
from tests.support.bigquery_environment import IS_ALL
from tests.support.environment import API_KEY, NOW, settings_in
from tests.support.event_streams import steps
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.load import load

DATA = Path(__file__).parents[3] / "shared" / "data" / "loan_applications"
EXAMPLE = Path(__file__).parents[2] / "examples" / "loan_applications"
HISTORY_UNTIL = datetime(2011, 12, 15, tzinfo=UTC)
ENDS_AT = datetime(2012, 1, 14, tzinfo=UTC)
# Four hours one by one, windows of a day while the label of an exit can still become known, then of two days. With FAULTS=all, as
# `make faults-test` has it: eight hours, and windows of twelve hours.
HOURS = [*range(1, 5), *range(24, 16 * 24 + 1, 24), *range(18 * 24, 30 * 24 + 1, 48)]
if IS_ALL:
    HOURS = [*range(1, 9), *range(12, 16 * 24 + 1, 12), *range(18 * 24, 30 * 24 + 1, 48)]

pytestmark = [
    pytest.mark.data_tests,
    pytest.mark.skipif(not DATA.is_dir(), reason="the loan applications are not part of the project"),
]


def load_loans(folder: Path) -> None:
    warehouse = DuckDBWarehouse(folder / "winback.duckdb")
    load(warehouse, {"events": DATA / "app_events.parquet", "users": DATA / "users.parquet"}, now=NOW)
    warehouse.close()


def test_the_job_holds_over_real_loan_applications(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_in(tmp_path, config=EXAMPLE)
    load_loans(tmp_path)

    with (
        LocalCrm(tmp_path / "crm.sqlite", api_key=API_KEY, clock=lambda: NOW) as crm,
        open_context(settings, destination=Braze(crm.url, API_KEY), now=lambda: NOW) as context,
    ):
        backfill(context, HISTORY_UNTIL)
        train(context)
        relation = context.warehouse.relation
        for hours in HOURS:
            if hours >= 24:  # from here without data tests
                monkeypatch.setenv("DBT_EXCLUDE_RESOURCE_TYPES", "test")
            result = hourly(context, HISTORY_UNTIL + timedelta(hours=hours))

            assert result.stopped is None
            assert result.sync.differing == result.sync.delivered + sum(result.sync.suppressed.values())
            approved = context.warehouse.query(
                "select distinct user_id from raw.app_events where event_name = 'A_APPROVED' and loaded_at < $until",
                {"until": result.window_until},
            ).column("user_id")
            eligible = {user for user, held in crm.store.profiles().items() if held["voucher_eligible"]}
            assert not eligible & set(approved.to_pylist())
        assert result.window_until == ENDS_AT

        again = hourly(context, ENDS_AT)
        assert (again.scoring, again.sync.requests) == (None, 0)

        monkeypatch.delenv("DBT_EXCLUDE_RESOURCE_TYPES")
        context.transform(Window(UNIX_EPOCH, ENDS_AT, HISTORY_UNTIL)).build("examples")
        known = context.warehouse.query(
            f"""
            select examples.label, decisions.churn_probability
            from {relation("marts", "fct_training_examples")} as examples
            inner join {relation("staging", "stg_ops__decisions")} as decisions using (exit_id)
            where decisions.disposition = 'scored'
            """
        )
        auc = roc_auc_score(known.column("label").to_numpy(), known.column("churn_probability").to_numpy())
        assert auc >= 0.80
        assert known.num_rows > 2_000

        # Exactly once: as many decisions as exits, none twice. A decision stays even if a late event moves the exit.
        counts = context.warehouse.query(
            f"""
            with exits as (
                select exit_id from {relation("marts", "fct_unfinished_exits")}
                where not is_dissolved and closed_at > $history_until
            )
            select
                (select count(*) from exits) as exits,
                count(*) as decisions,
                count(distinct decisions.exit_id) as decided,
                count(exits.exit_id) as decided_exits
            from {relation("staging", "stg_ops__decisions")} as decisions
            left join exits on decisions.exit_id = exits.exit_id
            """,
            {"history_until": HISTORY_UNTIL},
        ).to_pylist()[0]
        assert counts["decisions"] == counts["decided"]
        assert counts["decided_exits"] == counts["exits"] > 8_000

    folder = tmp_path / "one_go"
    folder.mkdir()
    load_loans(folder)
    one_go = built_by_dbt(folder, {}, steps(HISTORY_UNTIL, [], ENDS_AT), config=EXAMPLE)
    assert differences(DuckDBWarehouse(tmp_path / "winback.duckdb"), one_go) == {}
