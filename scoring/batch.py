"""Scoring step: turns a run's candidates into decisions, staged under the run's id.

It reads in chunks, predicts, decides over all rows at once (budgets and ranking need all of them), explains and writes. Memory
grows by a few numbers and two ids per row, about 150 bytes; the wide features stay in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import ContractError
from scoring.faults import Faults
from scoring.features import Matrix
from scoring.model import Model
from scoring.policy import ARMS, ELIGIBILITY_REASONS, RISK_BANDS, Candidates, Decisions, Policy, decide
from scoring.reasons import reasons
from warehouse.interface import Warehouse
from warehouse.interface import count as count_rows
from warehouse.ledger import REPAIR, counting
from warehouse.tables import DECISIONS, TIMESTAMP

CHUNK_ROWS = 65_536
MART = "fct_scoring_candidates"
# One score for many users means that a feature was lost. It happened in practice: 2,137 equal scores in a "successful" run.
MIN_ROWS_FOR_DISTINCT_SCORES = 50

# Exits are set aside if their user's rows break a rule that all others follow.
BAD_DATA = "bad_data"
_KEYS = ["exit_id", "user_id", "exited_at"]
_POLICY_INPUTS = ["user_number", "has_profile", "has_marketing_consent", "last_granted_at", "last_redeemed_at"]
Numbers = npt.NDArray[np.float64]
_HIGH = RISK_BANDS.index("high")


@dataclass(frozen=True)
class Run:
    """Identity and time of a run: `decided_at` is the end of the run window, UTC."""

    run_id: str
    epoch: int
    decided_at: datetime


@dataclass(frozen=True)
class ScoringCounts:
    """Counts of the candidates by result; `exits` is `scored` plus the skipped.

    `out_of_range` counts, by feature, the values of scored exits that were out of range and treated as missing.
    """

    exits: int
    scored: int
    skipped: dict[str, int]
    eligible: int
    bands: dict[str, int]
    eligibility_reasons: dict[str, int]
    out_of_range: dict[str, int]


@dataclass
class _ScoredRows:
    """The scored rows so far: narrow columns, and the features of rows that may still need reasons.

    `aside` are the rows without a value that the contract requires.
    """

    keys: list[pa.Table] = field(default_factory=list)
    inputs: list[pa.Table] = field(default_factory=list)
    probabilities: list[Numbers] = field(default_factory=list)
    reasons: list[pa.Array] = field(default_factory=list)
    waiting: list[tuple[npt.NDArray[np.int64], Matrix]] = field(default_factory=list)
    aside: list[pa.RecordBatch] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)

    @property
    def probability(self) -> Numbers:
        """Probabilities of all rows, in order."""
        return np.concatenate(self.probabilities) if self.probabilities else np.empty(0, np.float64)

    def input(self, name: str) -> npt.NDArray[np.int64]:
        """One policy input of all rows as whole numbers: flags 0 or 1, times in microseconds, null 0."""
        parts = [rows.column(name).cast(pa.int64()).fill_null(0).to_numpy() for rows in self.inputs]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


def score(
    warehouse: Warehouse,
    model: Model,
    policy: Policy,
    run: Run,
    *,
    advance: Callable[[int], None] | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> ScoringCounts:
    """Score, decide and stage every candidate. `advance` receives the number of rows done, for a progress bar.

    A row without a value that the contract requires is skipped as `bad_data`.

    Raises: ContractError when the mart and the model do not fit, too many values break the contract, or all scores are equal.
    """
    relation = warehouse.relation("marts", MART)
    model.contract.check_columns(warehouse.schema(f"select * from {relation}"), MART)
    step = _ScoringStep(warehouse, model, policy, run, relation)
    scored = step.predict(chunk_rows, advance)
    scored.faults.check(MART)
    probability = scored.probability
    if len(probability) >= MIN_ROWS_FOR_DISTINCT_SCORES and (probability == probability[0]).all():
        raise ContractError(
            f"All {len(probability)} scores are {probability[0]:.4f}. A feature was lost between the mart and the model: "
            "compare the mart's rows with the contract. Nothing was decided."
        )
    decided = step.decide(scored)
    texts = step.explain(scored, decided)

    skipped: dict[str, int] = {}
    rows = chain(step.scored_rows(scored, decided, texts), step.skipped_rows(scored, skipped))
    count = warehouse.append(DECISIONS, rows)
    counts = ScoringCounts(
        exits=count_rows(warehouse, relation),
        scored=len(probability),
        skipped=skipped,
        eligible=int(decided.is_eligible.sum()),
        bands=_tally(policy.bands(probability), RISK_BANDS),
        eligibility_reasons=_tally(decided.reason, ELIGIBILITY_REASONS),
        out_of_range=scored.faults.out_of_range,
    )
    if not counts.exits == counts.scored + sum(counts.skipped.values()) == count:
        raise ContractError(
            f"{counts.exits} candidates, but {count} decisions: rows were lost or duplicated. Nothing was committed."
        )
    return counts


@dataclass(frozen=True)
class _ScoringStep:
    """State and parts of one scoring step."""

    warehouse: Warehouse
    model: Model
    policy: Policy
    run: Run
    relation: str

    def predict(self, chunk_rows: int, advance: Callable[[int], None] | None) -> _ScoredRows:
        """Read and score, chunk by chunk, with the reasons of the high band."""
        model, scored, offset = self.model, _ScoredRows(), 0
        lowest = self.policy.voucher.probability_range[0]
        names = ", ".join([*_KEYS, *_POLICY_INPUTS, *model.contract.names])
        sql = f"select {names} from {self.relation} where skip_reason is null"
        for read in self.warehouse.stream(sql, chunk_rows):
            matrix, batch = model.contract.encode(read, MART, scored.faults), read
            fits = model.contract.fits(read)
            if not fits.all():
                scored.aside.append(read.select(_KEYS).filter(pa.array(~fits)))
                matrix, batch = matrix[fits], read.filter(pa.array(fits))
            if advance:
                advance(read.num_rows)
            if not len(matrix):
                continue
            # Four decimals, as the CRM shows them: band and eligibility must agree with the number that people see.
            probability: Numbers = np.round(model.predict(matrix).astype(np.float64), 4).astype(np.float64)
            high = self.policy.bands(probability) == _HIGH
            may_be_granted = np.flatnonzero(~high & (probability >= lowest))
            scored.keys.append(pa.Table.from_batches([batch.select(_KEYS)]))
            scored.inputs.append(pa.Table.from_batches([batch.select(_POLICY_INPUTS)]))
            scored.probabilities.append(probability)
            scored.reasons.append(_spread(high, self._reasons(matrix[high])))
            scored.waiting.append((may_be_granted + offset, matrix[may_be_granted]))
            offset += len(matrix)
        return scored

    def decide(self, scored: _ScoredRows) -> Decisions:
        """Apply the policy to all rows at once."""
        candidates = Candidates(
            probability=scored.probability,
            user_number=scored.input("user_number"),
            has_profile=scored.input("has_profile").astype(bool),
            has_marketing_consent=scored.input("has_marketing_consent").astype(bool),
            last_granted_us=scored.input("last_granted_at"),
            last_redeemed_us=scored.input("last_redeemed_at"),
        )
        return decide(candidates, self.policy, decided_at=self.run.decided_at, granted_today=self._granted_today())

    def explain(self, scored: _ScoredRows, decided: Decisions) -> pa.ChunkedArray:
        """Add the reasons of users who get a voucher without being in the high band."""
        texts = pa.chunked_array(scored.reasons, pa.string())
        eligible = decided.is_eligible
        granted = [(rows[eligible[rows]], matrix[eligible[rows]]) for rows, matrix in scored.waiting]
        rows = np.concatenate([r for r, _ in granted]) if granted else np.empty(0, np.int64)
        if not len(rows):
            return texts
        flags = np.zeros(len(texts), dtype=bool)
        flags[rows] = True
        return pc.coalesce(texts, _spread(flags, self._reasons(np.concatenate([m for _, m in granted]))))

    def scored_rows(self, scored: _ScoredRows, decided: Decisions, texts: pa.ChunkedArray) -> Iterator[pa.RecordBatch]:
        """Yield the decisions of the scored exits, a chunk at a time."""
        probability = scored.probability
        bands = self.policy.bands(probability)
        valid_until, never = pa.scalar(decided.valid_until, TIMESTAMP), pa.scalar(None, TIMESTAMP)
        offset = 0
        for keys in scored.keys:
            part = slice(offset, offset + keys.num_rows)
            eligible = pa.array(decided.is_eligible[part])
            yield self._stamp(
                keys,
                "scored",
                {"model_version": self.model.version, "policy_version": self.policy.version},
                {
                    "churn_probability": pa.array(probability[part]),
                    "churn_risk_band": _named(bands[part], RISK_BANDS),
                    "churn_reasons": texts.slice(offset, keys.num_rows).combine_chunks(),
                    "experiment_arm": _named(decided.arm[part], ARMS),
                    "is_eligible": eligible,
                    "eligibility_reason": _named(decided.reason[part], ELIGIBILITY_REASONS),
                    "valid_until": pc.if_else(eligible, valid_until, never),
                },
            )
            offset += keys.num_rows

    def skipped_rows(self, scored: _ScoredRows, skipped: dict[str, int]) -> Iterator[pa.RecordBatch]:
        """Yield the decisions of exits that are not scored, and count them by reason."""
        sql = f"select {', '.join(_KEYS)}, skip_reason from {self.relation} where skip_reason is not null"
        aside = (
            pa.RecordBatch.from_arrays(
                [*rows.columns, pa.array([BAD_DATA] * rows.num_rows, pa.string())], names=[*_KEYS, "skip_reason"]
            )
            for rows in scored.aside
        )
        for batch in chain(self.warehouse.stream(sql, CHUNK_ROWS), aside):
            for entry in pc.value_counts(batch.column("skip_reason")).to_pylist():
                skipped[entry["values"]] = skipped.get(entry["values"], 0) + entry["counts"]
            not_eligible = {"is_eligible": pa.array(np.zeros(batch.num_rows, dtype=bool))}
            yield self._stamp(pa.Table.from_batches([batch]), "skipped", {}, not_eligible)

    def _reasons(self, matrix: Matrix) -> pa.Array:
        if not len(matrix):
            return pa.array([], pa.string())
        return reasons(self.model.contract, matrix, self.model.contributions(matrix))

    def _granted_today(self) -> int:
        """Vouchers granted by committed runs on the day of this one.

        Counted from the runs, which name no user. An erasure deletes decisions, and counting those would return their budget.
        """
        day = self.run.decided_at.replace(hour=0, minute=0, second=0, microsecond=0)
        # A repair keeps the earlier watermark. It was committed on the day of the grants that it writes again.
        sql = f"""
            select cast(coalesce(sum(count_eligible), 0) as bigint) as n from ({counting(self.warehouse)}) as runs
            where case when kind = '{REPAIR}' then committed_at else window_until end >= timestamp '{day:%Y-%m-%d} 00:00:00'
        """
        return int(self.warehouse.query(sql).column("n")[0].as_py())

    def _stamp(
        self, rows: pa.Table, disposition: str, versions: dict[str, str], columns: dict[str, pa.Array]
    ) -> pa.RecordBatch:
        """Add the values that all rows of a run share."""
        run = self.run
        for name, text in {"disposition": disposition, "run_id": run.run_id, **versions}.items():
            rows = rows.append_column(name, _named(np.zeros(rows.num_rows, dtype=np.int8), (text,)))
        rows = rows.append_column("epoch", pa.repeat(pa.scalar(run.epoch, pa.int64()), rows.num_rows))
        rows = rows.append_column("decided_at", pa.repeat(pa.scalar(run.decided_at, TIMESTAMP), rows.num_rows))
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
