"""How do this run's candidates become decisions, staged under the run's id?

Read in chunks, predict, decide over all rows at once (budgets and ranking need all of them), explain, write. What grows with the
rows is a few numbers and two ids each, about 150 bytes; the wide features stay in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from scoring.contract import Matrix
from scoring.model import Model
from scoring.policy import ARMS, ELIGIBILITY_REASONS, RISK_BANDS, Candidates, Decided, Policy, decide
from scoring.reasons import reasons
from warehouse.errors import ContractError
from warehouse.interface import Warehouse
from warehouse.tables import DECISIONS, TIMESTAMP

CHUNK_ROWS = 65_536
MART = "fct_scoring_candidates"
# One score for many users means that a feature was lost on the way: seen in the wild as 2,137 equal scores in a "successful" run.
MIN_ROWS_FOR_DISTINCT_SCORES = 50

_KEYS = ["exit_id", "user_id", "exited_at"]
_POLICY_INPUTS = ["user_number", "has_marketing_consent", "last_granted_at", "last_redeemed_at"]
_HIGH = RISK_BANDS.index("high")


@dataclass(frozen=True)
class Run:
    """Who decides, and when: `decided_at` is the end of the run window, UTC."""

    run_id: str
    epoch: int
    decided_at: datetime


@dataclass(frozen=True)
class ScoringCounts:
    """What became of the candidates; `exits` = `scored` + the skipped."""

    exits: int
    scored: int
    skipped: dict[str, int]
    eligible: int
    bands: dict[str, int]
    eligibility_reasons: dict[str, int]


@dataclass
class _Scored:
    """The scored rows so far: narrow columns, and the features of those whose reasons may yet be asked for."""

    keys: list[pa.Table]
    inputs: list[pa.Table]
    probability: list[npt.NDArray[np.float64]]
    reasons: list[pa.Array]
    waiting: list[tuple[npt.NDArray[np.int64], Matrix]]


def score(
    warehouse: Warehouse,
    model: Model,
    policy: Policy,
    run: Run,
    *,
    advance: Callable[[int], None] = lambda rows: None,
    chunk_rows: int = CHUNK_ROWS,
) -> ScoringCounts:
    """Score, decide and stage every candidate; `advance` is told of rows done, for a progress bar.

    Raises: ContractError when the mart and the model do not fit, or the scores are all one.
    """
    relation = warehouse.relation("marts", MART)
    model.contract.check_columns(warehouse.query(f"select * from {relation} limit 0").schema, MART)  # noqa: S608
    day = run.decided_at.replace(hour=0, minute=0, second=0, microsecond=0)
    granted_today = _granted_since(warehouse, day)

    scored = _predict(warehouse, model, policy, relation, advance, chunk_rows)
    probability = np.concatenate(scored.probability) if scored.probability else np.empty(0, np.float64)
    if len(probability) >= MIN_ROWS_FOR_DISTINCT_SCORES and (probability == probability[0]).all():
        raise ContractError(
            f"All {len(probability)} scores are {probability[0]:.4f}. A feature was lost between the mart and the model: "
            "compare the mart's rows with the contract. Nothing was decided."
        )
    decided = _decide(scored, probability, policy, run, granted_today)
    texts = _explain(scored, decided, model)
    bands = policy.bands(probability)

    skipped: dict[str, int] = {}
    count = warehouse.append(
        DECISIONS,
        _rows(warehouse, relation, run, policy, model, scored, probability, bands, decided, texts, skipped),
    )
    counts = ScoringCounts(
        exits=int(warehouse.query(f"select count(*) as n from {relation}").column("n")[0].as_py()),  # noqa: S608
        scored=len(probability),
        skipped=skipped,
        eligible=int(decided.is_eligible.sum()),
        bands=_tally(bands, RISK_BANDS),
        eligibility_reasons=_tally(decided.reason, ELIGIBILITY_REASONS),
    )
    if not counts.exits == counts.scored + sum(counts.skipped.values()) == count:
        raise ContractError(f"{counts.exits} candidates, but {count} decisions: rows were lost or doubled. Nothing was committed.")
    return counts


def _granted_since(warehouse: Warehouse, day: datetime) -> int:
    sql = (
        f"select count(*) as n from {warehouse.relation('ops', 'decisions')} as d "  # noqa: S608
        f"inner join {warehouse.relation('ops', 'runs')} as r on d.run_id = r.run_id "
        f"where d.is_eligible and d.decided_at >= timestamp '{day:%Y-%m-%d} 00:00:00'"
    )
    return int(warehouse.query(sql).column("n")[0].as_py())


def _predict(
    warehouse: Warehouse,
    model: Model,
    policy: Policy,
    relation: str,
    advance: Callable[[int], None],
    chunk_rows: int,
) -> _Scored:
    names = ", ".join([*_KEYS, *_POLICY_INPUTS, *model.contract.names])
    scored = _Scored([], [], [], [], [])
    lowest = policy.voucher.probability_range[0]
    offset = 0
    for batch in warehouse.stream(f"select {names} from {relation} where skip_reason is null", chunk_rows):  # noqa: S608
        matrix = model.contract.encode(batch, MART)
        # Four decimals, as the CRM shows it: band and eligibility must agree with the number a person can see.
        probability = np.round(model.predict(matrix).astype(np.float64), 4)
        high = policy.bands(probability) == _HIGH
        texts = reasons(model.contract, matrix[high], model.contributions(matrix[high])) if high.any() else pa.array([], pa.string())
        scored.keys.append(pa.Table.from_batches([batch.select(_KEYS)]))
        scored.inputs.append(pa.Table.from_batches([batch.select(_POLICY_INPUTS)]))
        scored.probability.append(probability)
        scored.reasons.append(_spread(high, texts))
        may_be_granted = np.flatnonzero(~high & (probability >= lowest))
        scored.waiting.append((may_be_granted + offset, matrix[may_be_granted]))
        offset += len(matrix)
        advance(len(matrix))
    return scored


def _decide(scored: _Scored, probability: npt.NDArray[np.float64], policy: Policy, run: Run, granted_today: int) -> Decided:
    inputs = pa.concat_tables(scored.inputs) if scored.inputs else pa.table({name: pa.array([], pa.int64()) for name in _POLICY_INPUTS})

    def numbers(name: str) -> npt.NDArray[np.int64]:
        values = inputs.column(name)
        return np.asarray(values.cast(pa.int64()).fill_null(0).to_numpy(), dtype=np.int64)

    candidates = Candidates(
        probability=probability,
        user_number=numbers("user_number"),
        has_marketing_consent=numbers("has_marketing_consent").astype(bool),
        last_granted_us=numbers("last_granted_at"),
        last_redeemed_us=numbers("last_redeemed_at"),
    )
    return decide(candidates, policy, decided_at=run.decided_at, granted_today=granted_today)


def _explain(scored: _Scored, decided: Decided, model: Model) -> pa.ChunkedArray:
    """Add the reasons of those who get a voucher without being in the high band."""
    texts = pa.chunked_array(scored.reasons, pa.string())
    granted = [(rows[decided.is_eligible[rows]], matrix[decided.is_eligible[rows]]) for rows, matrix in scored.waiting]
    rows = np.concatenate([r for r, _ in granted]) if granted else np.empty(0, np.int64)
    if not len(rows):
        return texts
    matrix = np.concatenate([m for _, m in granted])
    more = reasons(model.contract, matrix, model.contributions(matrix))
    flags = np.zeros(len(texts), dtype=bool)
    flags[rows] = True
    return pc.coalesce(texts, _spread(flags, more))


def _rows(
    warehouse: Warehouse,
    relation: str,
    run: Run,
    policy: Policy,
    model: Model,
    scored: _Scored,
    probability: npt.NDArray[np.float64],
    bands: npt.NDArray[np.int8],
    decided: Decided,
    texts: pa.ChunkedArray,
    skipped: dict[str, int],
) -> Iterator[pa.RecordBatch]:
    """Yield the decisions: scored chunk by chunk, then the skipped, which are counted into `skipped` on the way."""
    always = {"run_id": run.run_id, "epoch": run.epoch, "decided_at": run.decided_at}
    offset = 0
    for keys in scored.keys:
        part = slice(offset, offset + keys.num_rows)
        eligible = pa.array(decided.is_eligible[part])
        yield _stamp(
            keys,
            {
                "disposition": "scored",
                "model_version": model.version,
                "policy_version": policy.version,
                **always,
            },
            {
                "churn_probability": pa.array(probability[part]),
                "churn_risk_band": _named(bands[part], RISK_BANDS),
                "churn_reasons": texts.slice(offset, keys.num_rows).combine_chunks(),
                "experiment_arm": _named(decided.arm[part], ARMS),
                "is_eligible": eligible,
                "eligibility_reason": _named(decided.reason[part], ELIGIBILITY_REASONS),
                "valid_until": pc.if_else(eligible, pa.scalar(decided.valid_until, TIMESTAMP), pa.scalar(None, TIMESTAMP)),
            },
        )
        offset += keys.num_rows
    sql = f"select {', '.join(_KEYS)}, skip_reason from {relation} where skip_reason is not null"  # noqa: S608
    for batch in warehouse.stream(sql, CHUNK_ROWS):
        for entry in pc.value_counts(batch.column("skip_reason")).to_pylist():
            skipped[entry["values"]] = skipped.get(entry["values"], 0) + entry["counts"]
        never = pa.array(np.zeros(batch.num_rows, dtype=bool))
        yield _stamp(pa.Table.from_batches([batch]), {"disposition": "skipped", **always}, {"is_eligible": never})


def _stamp(rows: pa.Table, constants: dict[str, object], columns: dict[str, pa.Array]) -> pa.RecordBatch:
    """Add columns to rows, those of one value as dictionaries."""
    for name, value in constants.items():
        kind = DECISIONS.schema.field(name).type
        if pa.types.is_string(kind):
            values = _named(np.zeros(rows.num_rows, dtype=np.int8), (str(value),))
        else:
            values = pa.repeat(pa.scalar(value, kind), rows.num_rows)
        rows = rows.append_column(name, values)
    for name, values in columns.items():
        rows = rows.append_column(name, values)
    return rows.combine_chunks().to_batches()[0]


def _named(indexes: npt.NDArray[np.int8], names: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(indexes), pa.array(names))


def _spread(flags: npt.NDArray[np.bool_], values: pa.Array) -> pa.Array:
    """Put values where the flags are set, null elsewhere."""
    positions = np.cumsum(flags) - 1
    return values.take(pa.array(positions, mask=~flags)) if len(values) else pa.nulls(len(flags), pa.string())


def _tally(indexes: npt.NDArray[np.int8], names: tuple[str, ...]) -> dict[str, int]:
    counts = np.bincount(indexes, minlength=len(names))
    return {name: int(counts[i]) for i, name in enumerate(names) if counts[i]}
