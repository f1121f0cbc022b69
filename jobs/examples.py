"""What do models learn from and get judged on: matured examples from dbt, and whatever of training is installed?"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from importlib.metadata import entry_points
from typing import Any

import pyarrow as pa

from jobs.house import House
from jobs.transform import SINCE_EVER, Window
from warehouse import ledger
from warehouse.errors import ContractError

CHUNK_ROWS = 65_536


def installed(name: str) -> Callable[..., Any]:
    """Return what training offers under the name: `train` or `evaluate`.

    Raises: ContractError where training is not installed.
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


def build_examples(house: House, until: datetime | None) -> tuple[pa.Table, datetime]:
    """Build the examples known by `until` (UTC; default and at most the watermark); returns them and that moment.

    Raises: ContractError when nothing is backfilled.
    """
    first, last = ledger.history(house.warehouse)
    until = min(until or last.window_until, last.window_until)
    house.narrator.step("Building examples", until=until)
    window = Window(from_at=SINCE_EVER, until_at=until, history_until=first.window_until)
    house.transform(window).build("examples")
    relation = house.warehouse.relation("marts", "fct_training_examples")
    # Ordered, so that training again on the same rows gives the same model.
    rows = house.warehouse.stream(f"select * from {relation} order by exited_at, exit_id", CHUNK_ROWS)
    schema = house.warehouse.schema(f"select * from {relation}")
    return pa.Table.from_batches(list(rows), schema=schema), until
