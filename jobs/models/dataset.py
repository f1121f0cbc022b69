"""Training examples, which dbt builds from matured exits, and the loader of the installed training package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import entry_points
from typing import Any

import pyarrow as pa

from core.clock import UNIX_EPOCH
from core.errors import ContractError
from jobs.context import JobContext
from jobs.transform.dbt import Window
from jobs.transform.schema_version import check_feature_columns
from jobs.transform.watermark import committed
from scoring.features import FeatureContract
from scoring.features_file import load_contract

MART = "fct_training_examples"
# Features as known today; the examples hold them as they were when the exit was first seen.
CURRENT_FEATURES = "fct_exit_features"
CHUNK_ROWS = 65_536


def installed(name: str) -> Callable[..., Any]:
    """Return the entry point of the training package with this name: `train` or `evaluate`.

    Raises: ContractError if training is not installed.
    """
    found = list(entry_points(group="winback.training", name=name))
    if not found:
        raise ContractError(
            "Training is not installed here: it belongs to the `train` extra, not to the scoring image."
        )
    try:
        function: Callable[..., Any] = found[0].load()
    except ModuleNotFoundError as error:
        raise ContractError(
            f"Training is not installed here: {error.name} is missing. It belongs to the `train` extra."
        ) from None
    return function


@dataclass(frozen=True)
class ChangedFeature:
    """A feature, and the number of examples whose value today differs from the value at the time of scoring."""

    feature: str
    count_examples: int


@dataclass(frozen=True)
class Examples:
    """Summary of the training examples as known by `until`; times UTC.

    `unfinished_ratio` is for untreated examples; training leaves out treated ones. `count_moved` examples have features that late
    events changed after scoring; `moved` lists these features, the most frequent first.
    """

    until: datetime
    count_examples: int
    count_users: int
    count_treated: int
    unfinished_ratio: float | None
    first_exited_at: datetime
    last_exited_at: datetime
    count_moved: int
    moved: list[ChangedFeature]


def examples(context: JobContext, until: datetime | None = None) -> Examples:
    """Build the examples known by `until` (UTC; default and at most the watermark), and run their dbt tests.

    Raises: ContractError without history, if no exit has matured, or if the table breaks the feature contract or a test.
    """
    contract, until = _build(context, until)
    contract.check_columns(context.warehouse.schema(f"select * from {_relation(context, MART)}"), MART)
    context.reporter.step("Comparing with what is known today")
    differs = [f"logged.{name} is distinct from known.{name}" for name in contract.names]
    first_day = (until - timedelta(days=context.funnel.training_history_days)).date()
    [found] = context.warehouse.query(
        f"""
        select
            count(*) as count_examples,
            count(distinct logged.user_id) as count_users,
            sum(case when is_treated then 1 else 0 end) as count_treated,
            avg(case when not is_treated then label end) as unfinished_ratio,
            min(logged.exited_at) as first_exited_at,
            max(logged.exited_at) as last_exited_at,
            sum(case when {" or ".join(differs)} then 1 else 0 end) as count_moved,
            {", ".join(f"sum(case when {differ} then 1 else 0 end) as moved_{n}" for n, differ in enumerate(differs))}
        from {_relation(context, MART)} as logged
        left join (select * from {_relation(context, CURRENT_FEATURES)} where exited_on >= date '{first_day}') as known
            on logged.exit_id = known.exit_id
        """
    ).to_pylist()
    if not found["count_examples"]:
        raise ContractError(
            f"No exit has matured by {until:%Y-%m-%d %H:%M} UTC. It becomes an example {context.funnel.label_window_days} days "
            "later, once late events are in. Wait, or load older history and run winback backfill."
        )
    counts = [ChangedFeature(name, found.pop(f"moved_{n}")) for n, name in enumerate(contract.names)]
    moved = sorted(
        (each for each in counts if each.count_examples), key=lambda each: (-each.count_examples, each.feature)
    )
    return Examples(until=until, moved=moved, **found)


def build_examples(context: JobContext, until: datetime | None) -> tuple[pa.Table, datetime]:
    """Build the examples known by `until` (UTC; default and at most the watermark); returns them and that time.

    Raises: ContractError if nothing is backfilled, or a feature of the contract has no column yet.
    """
    _, until = _build(context, until)
    # Ordered, so that the same rows always give the same model.
    rows = context.warehouse.stream(f"select * from {_relation(context, MART)} order by exited_at, exit_id", CHUNK_ROWS)
    schema = context.warehouse.schema(f"select * from {_relation(context, MART)}")
    return pa.Table.from_batches(list(rows), schema=schema), until


def _build(context: JobContext, until: datetime | None) -> tuple[FeatureContract, datetime]:
    contract = load_contract(context.settings.config / "features.yml")
    first, last = committed(context)
    check_feature_columns(context.warehouse, contract.names)
    until = min(until or last.window_until, last.window_until)
    context.reporter.step("Building examples", until=until)
    window = Window(from_at=UNIX_EPOCH, until_at=until, history_until=first.window_until)
    context.transform(window).build("examples")
    return contract, until


def _relation(context: JobContext, name: str) -> str:
    return context.warehouse.relation("marts", name)
