"""Both warehouses: a run on BigQuery decides, sends and records the same as a run on DuckDB."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import requests

from core.settings import Settings
from jobs.hourly.run import hourly
from jobs.models.dataset import examples
from jobs.models.train import train
from jobs.upkeep import dead_letters
from tests.support.bigquery_emulator.process import Emulator
from tests.support.bigquery_environment import IS_ALL, BigQueryWorld, bigquery_settings, differences, sorted_rows, twins
from tests.support.challenger import challenge
from tests.support.dbt.on_bigquery import partitions
from tests.support.dbt.partition_bounds import violations
from tests.support.environment import World, at, settings_in, small_app
from warehouse.tables import VOUCHER_REDEMPTIONS

pytestmark = pytest.mark.data_tests

# Tables that must be equal to the last bit, except for the random run ids.
TABLES = {
    "ops.decisions": "true",
    "ops.runs": "true",
    "ops.deliveries": "true",
    "ops.reports": "true",
    "ops.shadow_scores": "true",
    "marts.crm_profiles": "true",
    "marts.crm_acknowledged": "true",
    "marts.crm_pending": "true",
    "marts.fct_arrivals": "true",
    "marts.fct_unfinished_exits": "exited_on >= date '1970-01-01' and not is_dissolved",
    "marts.fct_exit_features": "exited_on >= date '1970-01-01'",
    "marts.fct_exit_features_logged": "exited_on >= date '1970-01-01'",
}


# A second app runs only with FAULTS=all (`make faults-test`): it takes 90 s and covers little more than the first.
SEEDS = [3, 4] if IS_ALL else [3]


@pytest.fixture(scope="module", params=SEEDS, ids=lambda seed: f"seed {seed}")
def worlds(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[World, BigQueryWorld]]:
    """Fresh worlds, because the tests below depend on the first hours after history."""
    emulator, parsed = (request.getfixturevalue(name) for name in ("running_emulator", "parsed"))
    app = small_app(request.param, count_users=1_500)
    with twins(emulator, f"both{request.param}", app, tmp_path_factory.mktemp("twins"), parsed) as made:
        yield made


def refuse(world: World, users: list[str]) -> None:
    """Make the CRM reject these users."""
    requests.delete(f"{world.crm.url}/_control/faults", timeout=5).raise_for_status()
    if users:
        fault = {"kind": "row_error", "external_ids": users}
        requests.post(f"{world.crm.url}/_control/faults", json=fault, timeout=5).raise_for_status()


def test_both_train_on_the_same_examples(worlds: tuple[World, BigQueryWorld]) -> None:
    versions, told = [], []
    for world in worlds:
        with world.context() as context:
            versions.append(train(context).version)
            told.append(examples(context))
    assert told[0] == told[1]
    rows = [sorted_rows(world, "marts.fct_training_examples") for world in worlds]

    assert len(rows[0]) == told[0].count_examples > 500
    assert rows[0] == rows[1]
    # A version ends with a hash of the model's bytes.
    assert versions[0] == versions[1]


def test_both_decide_and_send_the_same_hour_by_hour(
    worlds: tuple[World, BigQueryWorld], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late events, withdrawn consent, a used voucher, a dead letter, a repeated and a missed hour, and shadow scores."""
    # Data tests are half of an hour's statements and change nothing; the hour below runs them.
    monkeypatch.setenv("DBT_EXCLUDE_RESOURCE_TYPES", "test")

    def both(hours: float) -> list[Any]:
        results = [world.run(hours, settings=settings_of(world, shadow=True)) for world in worlds]
        assert differences(*worlds, TABLES) == {}
        return results

    for world in worlds:
        challenge(world)
    shadows = [result.shadow for result in both(6)]
    assert shadows[0] == shadows[1]
    assert shadows[0].scored > 0
    both(6)
    granted = [
        r["user_id"]
        for r in worlds[0].query("select user_id from marts.crm_profiles where is_voucher_eligible order by 1")
    ]
    scored = worlds[0].query(
        "select * from ops.decisions where disposition = 'scored' and not is_eligible order by exit_id"
    )
    assert len(granted) >= 3
    for world in worlds:
        world.append_profile(granted[0], at(6.5), marketing_consent=False)
        world.append_event(granted[1], "filing_submitted", at(6.2), at(6.6))
        world.append_event(scored[0]["user_id"], "help_opened", scored[0]["exited_at"] + timedelta(minutes=9), at(6.7))
        world.append_event(scored[1]["user_id"], "help_opened", at(6.5) - timedelta(days=5), at(6.5))
        used = {
            "redemption_id": "r-1",
            "user_id": granted[2],
            "campaign": "c",
            "redeemed_at": at(6.3),
            "loaded_at": at(6.4),
        }
        world._append(VOUCHER_REDEMPTIONS, used)
        refuse(world, [granted[1]])

    results = both(7)
    assert [r.sync.rejected for r in results] == [1, 1]
    assert [r.arrivals.too_late for r in results] == [1, 1]

    for world in worlds:
        refuse(world, [])
        with world.context() as context:
            assert dead_letters.retry(context) == 1
    results = both(9)
    assert results[0].arrivals == results[1].arrivals
    assert results[0].scoring == results[1].scoring
    assert results[0].sync == results[1].sync

    reasons = {r["voucher_reason"] for r in worlds[1].query("select distinct voucher_reason from marts.crm_profiles")}
    assert reasons >= {"granted", "no_consent", "finished", "redeemed"}


def test_every_statement_of_an_hour_as_it_was_sent_says_from_which_day_on_it_reads(
    worlds: tuple[World, BigQueryWorld], emulator: Emulator, parsed: dict[str, Any]
) -> None:
    duckdb_world, world = worlds
    last = world.query("select max(window_until) as until from ops.runs")[0]["until"]
    until = last + timedelta(hours=6)
    with duckdb_world.context(now=lambda: until) as context:
        hourly(context, until)
    with world.context(now=lambda: until) as context:
        emulator.forget()
        result = hourly(context, until)
    sent = emulator.statements
    manifest = next(found for key, (_, found) in parsed.items() if world.prefix in key).writable_manifest()
    big = partitions(manifest.to_dict(omit_none=False))

    assert result.sync.delivered > 0
    assert {
        f"{world.prefix}_raw.app_events",
        f"{world.prefix}_ops.decisions",
        f"{world.prefix}_intermediate.int_sessions",
    } <= set(big)
    assert len(sent) > 60
    assert {sql: found for sql in sent if (found := violations(sql, big))} == {}


def settings_of(world: World, **changes: Any) -> Settings:
    if isinstance(world, BigQueryWorld):
        assert world.emulator is not None
        return bigquery_settings(world.emulator, world.prefix, world.folder, **changes)
    return settings_in(world.folder, **changes)


DATA = Path(__file__).parents[3] / "shared" / "data" / "loan_applications"
EXAMPLE = Path(__file__).parents[2] / "examples" / "loan_applications"
LOAN_HISTORY_UNTIL = datetime(2011, 12, 15, tzinfo=UTC)


@pytest.mark.skipif(
    not IS_ALL, reason="takes two minutes and covers little more than the synthetic app: make faults-test"
)
@pytest.mark.skipif(not DATA.is_dir(), reason="the loan applications are not part of the project")
def test_both_do_the_same_over_real_loan_applications(
    running_emulator: Emulator, tmp_path: Path, parsed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "app"
    files.mkdir()
    for name, file in (("events", "app_events.parquet"), ("users", "users.parquet")):
        rows = pq.read_table(DATA / file)
        # One applicant in four, by the last one or two digits of the id.
        pq.write_table(
            rows.filter(pc.match_substring_regex(rows.column("user_id"), "[048]$|[26][26]$")), files / f"{name}.parquet"
        )
    until = LOAN_HISTORY_UNTIL
    with twins(running_emulator, "loans", files, tmp_path, parsed, config=EXAMPLE, history_until=until) as worlds:
        monkeypatch.setenv("DBT_EXCLUDE_RESOURCE_TYPES", "test")
        for hours in (12, 36):
            for world in worlds:
                with world.context(settings=settings_of(world).model_copy(update={"config": EXAMPLE})) as context:
                    result = hourly(context, until + timedelta(hours=hours))
                assert result.stopped is None
            assert differences(*worlds, TABLES) == {}

        decided = worlds[1].query("select count(*) as n from ops.decisions where disposition = 'scored'")
        assert decided[0]["n"] > 20
