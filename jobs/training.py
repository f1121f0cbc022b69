"""How does a model come about: matured examples from dbt, handed to whatever trainer is installed?"""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import entry_points
from typing import Any

import pyarrow as pa

from jobs.house import House
from jobs.transform import SINCE_EVER, Window
from warehouse import ledger
from warehouse.errors import ContractError

CHUNK_ROWS = 65_536


def train(house: House, until: datetime | None = None) -> Any:
    """Build the examples known by `until` (UTC; default the watermark) and train on them; returns the trainer's answer.

    Raises: ContractError when nothing is backfilled, training is not installed, or the examples do not suffice.
    """
    first, last = ledger.history(house.warehouse)
    found = list(entry_points(group="winback.training", name="train"))
    if not found:
        raise ContractError(
            "Training is not installed here: it belongs to the `train` extra, not to the scoring image."
        )
    try:
        trainer = found[0].load()
    except ModuleNotFoundError as error:
        raise ContractError(
            f"Training is not installed here: {error.name} is missing. It belongs to the `train` extra."
        ) from None

    until = min(until or last.window_until, last.window_until)
    house.narrator.step("Building examples", until=until)
    window = Window(from_at=SINCE_EVER, until_at=until, history_until=first.window_until)
    house.transform(window).build("examples")
    relation = house.warehouse.relation("marts", "fct_training_examples")
    # Ordered, so that training again on the same rows gives the same model.
    examples = pa.Table.from_batches(
        list(house.warehouse.stream(f"select * from {relation} order by exited_at, exit_id", CHUNK_ROWS)),
        schema=house.warehouse.schema(f"select * from {relation}"),
    )
    house.narrator.step("Training", examples=examples.num_rows)
    return trainer(
        examples,
        house.settings.config,
        house.settings.models,
        trained_at=house.now(),
        until=until,
        label_window_days=house.funnel.label_window_days,
        threads=house.settings.threads,
        advance=house.narrator.step,
    )
