"""`winback load`: loads files into the raw tables, and sums up the tables and how they match funnel.yml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.clock import utc_now
from core.errors import ContractError
from core.progress import ProgressReporter
from core.settings import Settings
from jobs.transform.funnel import Funnel, load_funnel
from jobs.transform.watermark import stale
from jobs.upkeep.demo_mark import OWN_DATA, read_mark
from jobs.upkeep.profile_coverage import Coverage, coverage_of_events
from warehouse import ledger
from warehouse.duckdb.warehouse import DuckDBWarehouse
from warehouse.loading.load import Loaded, load
from warehouse.loading.paths import Found, find_files
from warehouse.loading.problems import message
from warehouse.loading.spelling import misspellings
from warehouse.loading.summary import RawSummary, counts_by_name, summarise


@dataclass(frozen=True)
class FunnelMatch:
    """Names that only the raw data or only funnel.yml has.

    `looks_like` maps a name that never occurs to an unknown name that looks like a misspelling of it.
    """

    unknown_events: dict[str, int]
    unknown_steps: dict[str, int]
    absent_events: tuple[str, ...]
    absent_steps: tuple[str, ...]
    looks_like: dict[str, str]


@dataclass(frozen=True)
class LoadAnswer:
    """Counts of the files' rows by table, and a summary of the raw tables.

    `events_by_name` has the new rows and all rows of each name. `funnel` is None if funnel.yml cannot be read;
    `funnel_problem` is the reason.
    """

    tables: dict[str, Loaded]
    events_by_name: dict[str, dict[str, int]]
    summary: RawSummary
    profiles: Coverage
    funnel: FunnelMatch | None
    funnel_problem: str | None
    files: dict[str, int]
    left_out: tuple[str, ...]
    set_aside: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return the result for JSON: the tables by name at the top level, and the other parts beside them."""
        summary, profiles = self.summary, self.profiles
        return {
            **self.tables,
            "summary": {
                "events_by_name": self.events_by_name,
                "count_events": summary.count_events,
                "first_occurred_at": summary.first_occurred_at,
                "last_occurred_at": summary.last_occurred_at,
                "count_users": profiles.count_users,
                "count_users_with_profile": profiles.count_users - profiles.count_without,
                "count_users_without_profile": profiles.count_without,
                "count_users_known_in_time": profiles.count_known,
                "count_users_respelled": profiles.count_respelled,
                "funnel": self.funnel,
                "funnel_problem": self.funnel_problem,
            },
            "files": self.files,
            "left_out": self.left_out,
            "set_aside": self.set_aside,
        }


def load_files(
    settings: Settings,
    named: Mapping[str, Sequence[Path]],
    reporter: ProgressReporter,
    *,
    set_aside: Path | None = None,
) -> LoadAnswer:
    """Load files, folders and patterns into the embedded warehouse, in one transaction; see warehouse.loading.load.

    Raises: ContractError for files that cannot be loaded, RetryableError if DuckDB fails; nothing is stored.
    """
    if settings.duckdb_file is None:
        raise ContractError(
            "winback load fills a DuckDB file. On BigQuery the app's ingestion writes the raw tables; "
            "files go in with: bq load --source_format=PARQUET"
        )
    found = {key: find_files(paths) for key, paths in named.items()}
    if problems := [problem for each in found.values() for problem in each.problems]:
        raise ContractError(message(problems))
    files = {key: each.files for key, each in found.items()}
    warehouse = DuckDBWarehouse(settings.duckdb_file, memory_limit=settings.memory_limit)
    try:
        warehouse.prepare()
        last, now = ledger.last_epoch(warehouse), utc_now()
        ledger.refuse_ahead(last, now)
        mark = read_mark(warehouse)
        if mark and mark.is_of_demo(last):
            reporter.warn(f"This warehouse is a demo's: loaded data mixes with its synthetic users. {OWN_DATA}.")
        elif old := stale(warehouse, last, now, settings.max_watermark_age_seconds):
            reporter.warn(old.told)
        before = counts_by_name(warehouse)
        tables = load(
            warehouse,
            files,
            now=now,
            watermark=last.window_until if last else None,
            earliest=settings.earliest_at,
            set_aside=set_aside,
            advance=reporter.progress("Loading", _size(files)),
        )
        summary, profiles = summarise(warehouse), coverage_of_events(warehouse)
        if profiles.warning:
            reporter.warn(profiles.warning)
        by_name = {name: {"new": n - before.get(name, 0), "all": n} for name, n in summary.events.items()}
        is_set_aside = any(one.count_set_aside for one in tables.values())
        return _answer(
            settings,
            found,
            tables,
            summary,
            events_by_name=by_name,
            profiles=profiles,
            set_aside=str(set_aside) if set_aside and is_set_aside else None,
        )
    finally:
        warehouse.close()


def match_funnel(funnel: Funnel, summary: RawSummary) -> FunnelMatch:
    """Compare the names in the data with those in funnel.yml. It may omit events, but its outcomes must occur."""
    kinds = [name for names in funnel.event_kinds.values() for name in names]
    events = list(dict.fromkeys([*funnel.outcomes, *kinds]))
    unknown = {name: count for name, count in summary.events.items() if name not in events}
    absent = tuple(name for name in events if name not in summary.events)
    return FunnelMatch(
        unknown_events=unknown,
        unknown_steps={name: count for name, count in summary.steps.items() if name not in funnel.steps},
        absent_events=absent,
        absent_steps=tuple(name for name in funnel.steps if name not in summary.steps),
        looks_like=misspellings(absent, unknown),
    )


def _match(path: Path, summary: RawSummary) -> tuple[FunnelMatch | None, str | None]:
    """Return the match, or the reason why there is none. An invalid funnel.yml does not stop a load."""
    try:
        return match_funnel(load_funnel(path), summary), None
    except ContractError as error:
        return None, str(error)


def _answer(
    settings: Settings, found: Mapping[str, Found], tables: dict[str, Loaded], summary: RawSummary, **more: Any
) -> LoadAnswer:
    match, problem = _match(settings.config / "funnel.yml", summary)
    return LoadAnswer(
        tables=tables,
        summary=summary,
        funnel=match,
        funnel_problem=problem,
        files={key: len(each.files) for key, each in found.items()},
        left_out=tuple(path.name for each in found.values() for path in each.left_out),
        **more,
    )


def _size(files: Mapping[str, Sequence[Path]]) -> int:
    return sum(path.stat().st_size for paths in files.values() for path in paths if path.is_file())
