"""Scores the challenger on a run's exits; the scores are stored beside the decisions and have no other effect.

It uses the same exits, features and rounding as the champion. Rows are staged under the run's id and count once the run has
committed, as decisions do. Rows of a run that was killed or lost its lease count for nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.errors import ContractError
from scoring.batch import CHUNK_ROWS, MART, MIN_ROWS_FOR_DISTINCT_SCORES, Run
from scoring.faults import Faults
from scoring.model import Model
from warehouse.interface import Warehouse
from warehouse.tables import SHADOW_SCORES, TIMESTAMP, fitted

_KEYS = ["exit_id", "user_id"]


def shadow(warehouse: Warehouse, model: Model, run: Run, *, chunk_rows: int = CHUNK_ROWS) -> int:
    """Score every exit that the champion scores, append the probabilities, and return their number.

    An exit without a value that the challenger's contract requires has no score.

    Raises: ContractError when the mart and the model do not fit, too many values break the contract, or all scores are equal.
    Nothing is written then.
    """
    relation = warehouse.relation("marts", MART)
    model.contract.check_columns(warehouse.schema(f"select * from {relation}"), MART)
    names = ", ".join([*_KEYS, *model.contract.names])
    keys: list[pa.RecordBatch] = []
    probabilities: list[npt.NDArray[np.float64]] = []
    faults = Faults()
    for read in warehouse.stream(f"select {names} from {relation} where skip_reason is null", chunk_rows):
        matrix, fits = model.contract.encode(read, MART, faults), model.contract.fits(read)
        keys.append(read.select(_KEYS).filter(pa.array(fits)))
        told = model.predict(matrix[fits]).astype(np.float64)
        probabilities.append(np.round(told, 4))
    faults.check(MART)
    count = sum(map(len, probabilities))
    levels = {level for part in probabilities for level in np.unique(part).tolist()}
    if count >= MIN_ROWS_FOR_DISTINCT_SCORES and len(levels) == 1:
        raise ContractError(f"All {count} scores are {levels.pop():.4f}.")
    if levels and not all(map(np.isfinite, levels)):
        raise ContractError("Some scores are not numbers.")
    stamps = {"run_id": run.run_id, "model_version": model.version}
    rows = (_stamped(part, told, stamps, run) for part, told in zip(keys, probabilities, strict=True))
    return warehouse.append(SHADOW_SCORES, rows) if count else 0


def _stamped(keys: pa.RecordBatch, told: npt.NDArray[np.float64], stamps: dict[str, str], run: Run) -> pa.RecordBatch:
    count = keys.num_rows
    columns = {name: keys.column(name) for name in _KEYS}
    columns |= {name: pa.repeat(pa.scalar(text), count) for name, text in stamps.items()}
    columns["churn_probability"] = pa.array(told)
    columns["scored_at"] = pa.repeat(pa.scalar(run.decided_at, TIMESTAMP), count)
    return fitted(pa.RecordBatch.from_pydict(columns), SHADOW_SCORES.schema)
