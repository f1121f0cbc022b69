"""How do matured examples become a model bundle? Split by time, fit, measure on the later exits, fit again, seal.

The second fit takes every example, with the number of rounds that the first one found, because the latest weeks are
the most like what comes. It ships; the card says which one was measured. The same examples and seed give the same bytes
of `model.json`, whatever the order of the rows or the number of threads.

Examples of users who held a voucher are left out: they show what happens with one, the score is to say what happens
without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scoring.bundles import champion, promote
from scoring.contract import FeatureContract
from training import evaluate
from training.bundle import write_bundle
from training.card import Report
from training.evaluate import Floats, Labels, Slice
from training.fit import Fitter
from training.plots import Curves
from training.split import Split, split_by_time
from warehouse.errors import ContractError
from warehouse.tables import TIMESTAMP

MART = "fct_training_examples"
MIN_EXAMPLES = 200
# Contributions cost more than predictions; so many rows give their means to two digits.
MAX_EXPLAINED_ROWS = 20_000
_DAY_US = 86_400_000_000
_NEEDED = ("label", "is_treated", "exit_id", "user_id", "exited_at")


@dataclass(frozen=True)
class Trained:
    """A sealed bundle. `is_first`: there was no champion, so it became one."""

    version: str
    folder: Path
    metrics: dict[str, float]
    is_first: bool


def train(
    examples: pa.Table,
    declared: FeatureContract,
    models: Path,
    *,
    trained_at: datetime,
    label_window_days: int,
    seed: int = 0,
    threads: int = 0,
    advance: Callable[[str], None] = lambda _step: None,
) -> Trained:
    """Fit, measure, write the bundle into `models` and, where there is no champion yet, promote it.

    `examples` are rows of `fct_training_examples`; `trained_at` is aware and names the version; `threads` 0 uses every
    core; `advance` is told of each step as it begins: split, fit, evaluate, refit, write.

    Raises: ContractError when a column is absent or broken, or the examples are too few or all alike; nothing is
    written then.
    """
    advance("split")
    rows, label, count_treated = _usable(examples, declared, label_window_days)
    exited_us = rows.column("exited_at").cast(TIMESTAMP).cast(pa.int64()).to_numpy()
    split = split_by_time(exited_us, label_window_days * _DAY_US)
    _check_split(label, split)

    advance("fit")
    learned = declared.learn(rows.slice(0, split.fit.stop))
    matrix = learned.encode(rows, MART)
    fitter = Fitter(learned, seed=seed, threads=threads)
    booster, rounds = fitter.rounds(*((matrix[part], label[part]) for part in (split.fit, split.validation)))

    advance("evaluate")
    truth, test = label[split.test], matrix[split.test]
    probability = fitter.probability(booster, test)
    metrics = {
        **evaluate.measure(truth, probability, train_rate=float(label[split.fit].mean())),
        **_new_users(rows, split, truth, probability),
        "train_rate": float(label[split.fit].mean()),
        "gap_days": split.gap_us / _DAY_US,
        "count_rounds": float(rounds),
        **{f"count_{name}": float(part.stop - part.start) for name, part in split.parts.items()},
        "count_treated_left_out": float(count_treated),
    }
    sparse = test[:: -(-len(test) // MAX_EXPLAINED_ROWS)]
    curves = Curves(truth, probability, learned.names, fitter.contributions(booster, sparse))

    advance("refit")
    final = declared.learn(rows)
    shipped = Fitter(final, seed=seed, threads=threads).fixed(final.encode(rows, MART), label, rounds)

    advance("write")
    report = Report(
        metrics=metrics,
        contract=final,
        devices=_devices(rows, split, truth, probability),
        periods={
            name: (_moment(exited_us[part.start]), _moment(exited_us[part.stop - 1]), float(label[part].mean()))
            for name, part in split.parts.items()
            if part.stop > part.start
        },
        trained_at=trained_at.astimezone(UTC),
        label_window_days=label_window_days,
        seed=seed,
    )
    version = write_bundle(models, bytes(shipped.save_raw("json")), report, curves)
    is_first = champion(models) is None
    if is_first:
        promote(models, version)
    return Trained(version, models / version, metrics, is_first)


def _usable(examples: pa.Table, declared: FeatureContract, label_window_days: int) -> tuple[pa.Table, Labels, int]:
    """Return the untreated examples in the order of their exits, their labels, and how many were treated."""
    absent = [name for name in _NEEDED if name not in examples.column_names]
    if absent:
        raise ContractError(f"{MART} lacks {', '.join(absent)}. Restore the columns in dbt.")
    declared.check_columns(examples.schema, MART)
    untreated = examples.filter(pc.invert(examples.column("is_treated")))
    rows = untreated.sort_by([("exited_at", "ascending"), ("exit_id", "ascending")]).combine_chunks()
    if rows.num_rows < MIN_EXAMPLES:
        raise ContractError(
            f"{MART} holds {rows.num_rows} untreated examples; training needs {MIN_EXAMPLES}. An exit becomes an "
            f"example {label_window_days} days after it, once late events are in: wait, or load older history and run "
            "winback backfill."
        )
    labels = set(pc.unique(rows.column("label")).to_pylist())
    if not labels <= {0, 1}:
        others = ", ".join(sorted(map(str, labels - {0, 1})))
        raise ContractError(f"{MART}: label holds {others}; only 0 and 1 can be learned.")
    if len(labels) == 1:
        outcome = "unfinished" if labels == {1} else "finished"
        raise ContractError(
            f"All {rows.num_rows} examples in {MART} ended {outcome}: there is nothing to tell apart. "
            "Does completion_events in config/funnel.yml name the event that the app sends?"
        )
    return rows, rows.column("label").to_numpy().astype(np.int64), examples.num_rows - untreated.num_rows


def _check_split(label: Labels, split: Split) -> None:
    for name in ("fit", "test"):
        part = label[split.parts[name]]
        if len(np.unique(part)) < 2:
            raise ContractError(
                f"Split by time, the {name} period holds {len(part)} of {len(label)} examples, and not both outcomes "
                "among them. Load more history and run winback backfill, or train later."
            )


def _new_users(rows: pa.Table, split: Split, truth: Labels, probability: Floats) -> dict[str, float]:
    """Measure apart the test exits of users who were not learned from: the others might be known by heart."""
    users = rows.column("user_id")
    known = users.slice(0, split.validation.stop).combine_chunks()
    is_new = ~pc.is_in(users.slice(split.test.start), value_set=known).to_numpy()
    auc = evaluate.auc(truth[is_new], probability[is_new])
    return {"new_users_ratio": float(is_new.mean()), **({} if auc is None else {"auc_new_users": auc})}


def _devices(rows: pa.Table, split: Split, truth: Labels, probability: Floats) -> list[Slice]:
    if "device_type" not in rows.column_names:
        return []
    names = rows.column("device_type").slice(split.test.start).cast(pa.string())
    return evaluate.slices(names.to_pylist(), truth, probability)


def _moment(microseconds: np.int64) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(microseconds))
