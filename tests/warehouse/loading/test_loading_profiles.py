"""Arrival times of profile versions, and a version that allows less is never refused as a repetition."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders.loading import NOW, USERS, lines, refusal, user
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.load import Loaded, load

WRITTEN = datetime(2026, 1, 2, tzinfo=UTC)  # the updated_at of `user()`
GIVEN = datetime(2026, 2, 1, 10, tzinfo=UTC)
BEFORE, AFTER = GIVEN - timedelta(days=1), GIVEN + timedelta(days=1)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    opened = DuckDBWarehouse(tmp_path / "w.duckdb")
    opened.prepare()
    yield opened
    opened.close()


def loaded(
    warehouse: DuckDBWarehouse, folder: Path, *rows: str, header: str = USERS, **how: Any
) -> tuple[Loaded, list[dict[str, Any]]]:
    (folder / "u.csv").write_text(lines(header, *rows))
    one = load(warehouse, {"users": folder / "u.csv"}, **{"now": NOW, **how})["users"]
    return one, warehouse.query("from raw.users order by all").to_pylist()


@pytest.mark.parametrize(
    ("given", "watermark", "arrived"),
    [
        # Before the backfill no row is late: history arrived when it was written.
        (None, None, WRITTEN),
        ("", None, WRITTEN),
        ("2026-02-01T10:00:00Z", None, GIVEN),
        # After it, a row without a time arrives now, and so does a row with a time that runs have passed.
        (None, BEFORE, NOW),
        ("", BEFORE, NOW),
        ("2026-02-01T10:00:00Z", BEFORE, GIVEN),
        ("2026-02-01T10:00:00Z", GIVEN, GIVEN),
        ("2026-02-01T10:00:00Z", AFTER, NOW),
    ],
)
def test_a_version_arrives_when_the_file_says_or_when_it_is_loaded(
    warehouse: DuckDBWarehouse, tmp_path: Path, given: str | None, watermark: datetime | None, arrived: datetime
) -> None:
    header, row = (USERS, user()) if given is None else (f"{USERS},loaded_at", f"{user()},{given}")
    one, rows = loaded(warehouse, tmp_path, row, header=header, watermark=watermark)
    assert [row["loaded_at"] for row in rows] == [arrived]
    assert "loaded_at" not in one.absent_columns
    assert one.count_late == (1 if watermark else 0)


def test_the_same_file_an_hour_later_changes_nothing(warehouse: DuckDBWarehouse, tmp_path: Path) -> None:
    _, first = loaded(warehouse, tmp_path, user(), user(user_id="u2"), watermark=BEFORE)
    again, then = loaded(
        warehouse, tmp_path, user(), user(user_id="u2"), watermark=BEFORE, now=NOW + timedelta(hours=1)
    )
    assert (again.count_new, again.count_already_there, then) == (0, 2, first)


@pytest.mark.parametrize(("consent", "erased_at"), [("false", ""), ("true", "2026-01-02T00:00:00Z")])
@pytest.mark.parametrize("is_in_one_file", [True, False])
def test_a_version_that_allows_less_at_the_same_moment_is_a_version_of_its_own(
    warehouse: DuckDBWarehouse, tmp_path: Path, consent: str, erased_at: str, is_in_one_file: bool
) -> None:
    header = f"{USERS},erased_at"
    before, after = f"{user()},", f"{user(marketing_consent=consent)},{erased_at}"
    if is_in_one_file:
        one, _ = loaded(warehouse, tmp_path, before, after, header=header)
        assert one.count_new == 2
    else:
        loaded(warehouse, tmp_path, before, header=header)
    one, rows = loaded(warehouse, tmp_path, after, header=header)
    assert (one.count_new, len(rows)) == (0 if is_in_one_file else 1, 2)
    one, rows = loaded(warehouse, tmp_path, before, after, header=header)
    assert (one.count_new, one.count_already_there, len(rows)) == (0, 2, 2)


def test_a_version_that_differs_in_anything_else_at_the_same_moment_is_refused(
    warehouse: DuckDBWarehouse, tmp_path: Path
) -> None:
    loaded(warehouse, tmp_path, user())
    (tmp_path / "u.csv").write_text(lines(USERS, user(age="35")))
    assert "A changed user needs a later updated_at." in refusal(warehouse, {"users": tmp_path / "u.csv"})[0]
