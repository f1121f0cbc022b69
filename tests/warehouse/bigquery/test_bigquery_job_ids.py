"""Job ids of loads: rows count once if a reply is lost or two runs write at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from threading import Barrier

import pytest

from core.errors import RetryableError
from tests.support.bigquery_emulator.process import Emulator
from tests.support.bigquery_environment import connection_to, with_raw_tables
from tests.support.warehouse import FAILED, audits, epoch, numbers_in
from warehouse import ledger
from warehouse.bigquery.warehouse import BigQueryWarehouse
from warehouse.tables import AUDITS, RUNS


@pytest.fixture
def bigquery_warehouse(emulator: Emulator, prefix: str) -> Iterator[BigQueryWarehouse]:
    with closing(with_raw_tables(emulator, prefix)) as warehouse:
        emulator.forget()
        yield warehouse


def test_the_same_rows_appended_again_count_once(
    bigquery_warehouse: BigQueryWarehouse, emulator: Emulator, prefix: str
) -> None:
    assert bigquery_warehouse.append(AUDITS, audits(1, 2)) == 2
    with closing(BigQueryWarehouse(connection_to(emulator, prefix))) as another:
        assert another.append(AUDITS, iter(audits(1, 2).to_batches())) == 2
        another.append(AUDITS, audits(1, 2, audit_id="b"))

    assert numbers_in(bigquery_warehouse) == [1, 1, 2, 2]


def test_an_append_whose_reply_was_lost_counts_once(bigquery_warehouse: BigQueryWarehouse, emulator: Emulator) -> None:
    emulator.lose_reply("load ")

    assert bigquery_warehouse.append(AUDITS, audits(1, 2)) == 2

    assert numbers_in(bigquery_warehouse) == [1, 2]


def test_a_failed_load_is_told_and_the_next_try_takes_the_next_id(
    bigquery_warehouse: BigQueryWarehouse, emulator: Emulator
) -> None:
    emulator.fail("load ", FAILED, times=2)

    for _ in range(2):
        with pytest.raises(RetryableError, match="temporary fault"):
            bigquery_warehouse.append(AUDITS, audits(1))
        assert numbers_in(bigquery_warehouse) == []
    assert bigquery_warehouse.append(AUDITS, audits(1)) == 1

    assert numbers_in(bigquery_warehouse) == [1]
    asked = [str(asked.job_id).rsplit("-", 1) for asked in emulator.asked if asked.text.startswith("load ")]
    assert [attempt for _, attempt in asked] == ["0", "0", "1", "0", "1", "2"]
    assert len({stem for stem, _ in asked}) == 1


def test_of_two_that_commit_at_once_one_wins(
    bigquery_warehouse: BigQueryWarehouse, emulator: Emulator, prefix: str
) -> None:
    both = Barrier(2)

    def contend(warehouse: BigQueryWarehouse, run_id: str) -> tuple[bool, str]:
        both.wait()
        is_mine = warehouse.append_once(RUNS, asdict(epoch(1, run_id)))
        return is_mine, ledger.commit(warehouse, epoch(1, run_id)).run_id

    with closing(BigQueryWarehouse(connection_to(emulator, prefix))) as another, ThreadPoolExecutor(2) as threads:
        ways = ((bigquery_warehouse, "mine"), (another, "theirs"))
        answers = [f.result() for f in [threads.submit(contend, *way) for way in ways]]

    (row,) = ledger.epochs(bigquery_warehouse, 10)
    assert sorted(is_mine for is_mine, _ in answers) == [False, True]
    assert [winner for _, winner in answers] == [row.run_id] * 2


@pytest.mark.parametrize("is_mine", [True, False])
def test_a_commit_whose_reply_was_lost_names_the_winner(
    bigquery_warehouse: BigQueryWarehouse, emulator: Emulator, prefix: str, is_mine: bool
) -> None:
    if not is_mine:
        with closing(BigQueryWarehouse(connection_to(emulator, prefix))) as another:
            ledger.commit(another, epoch(1, "theirs"))
    emulator.lose_reply("load ")

    winner = ledger.commit(bigquery_warehouse, epoch(1, "mine"))

    assert winner.run_id == ("mine" if is_mine else "theirs")
    assert ledger.epochs(bigquery_warehouse, 10) == [winner]


def test_after_a_failed_commit_all_contend_for_the_same_next_id(
    bigquery_warehouse: BigQueryWarehouse, emulator: Emulator, prefix: str
) -> None:
    emulator.fail("load ", FAILED)

    with pytest.raises(RetryableError):
        ledger.commit(bigquery_warehouse, epoch(1, "mine"))
    assert ledger.epochs(bigquery_warehouse, 10) == []
    assert ledger.commit(bigquery_warehouse, epoch(1, "mine again")).run_id == "mine again"
    with closing(BigQueryWarehouse(connection_to(emulator, prefix))) as another:
        assert ledger.commit(another, epoch(1, "theirs")).run_id == "mine again"

    ids = [str(asked.job_id) for asked in emulator.asked if asked.text.startswith("load ")]
    assert [i.rsplit("-", 2)[1:] for i in ids] == [["1", "0"]] + [["1", "0"], ["1", "1"]] * 2
    assert len({i.rsplit("-", 1)[0] for i in ids}) == 1
    assert len(ledger.epochs(bigquery_warehouse, 10)) == 1


def test_a_table_made_anew_begins_its_epochs_anew(bigquery_warehouse: BigQueryWarehouse, prefix: str) -> None:
    assert bigquery_warehouse.append_once(RUNS, asdict(epoch(0, "before")))
    bigquery_warehouse.client.delete_table(f"{prefix}_ops.runs")
    bigquery_warehouse.prepare()

    assert bigquery_warehouse.append_once(RUNS, asdict(epoch(0, "after")))
    assert [e.run_id for e in ledger.epochs(bigquery_warehouse, 10)] == ["after"]
