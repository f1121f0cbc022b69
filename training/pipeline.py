"""Training pipeline: split, screen for leaks, search, fit, calibrate, measure on later exits, write the bundle.

The measured model is the one that ships, without a second fit on the latest weeks. A refitted model would know more, but there
would be no unseen exits left to measure it on, or to compare it with the champion. The same examples and seed give the same bytes
of `model.json`, whatever the order of the rows or the number of threads.

Examples of users who held a voucher are left out, because the score predicts what happens without one. Users in the holdout
never hold one, so they stay. Examples that break the feature contract are set aside and counted, if they are few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import ContractError
from scoring.faults import Faults, is_the_whole
from scoring.features import FeatureContract
from scoring.registry.bundles import Bundle
from training.bundle_writer import write_bundle
from training.config import TrainingRules
from training.evaluation import baselines, slices
from training.evaluation import metrics as evaluate
from training.evaluation import psi as shift
from training.evaluation.feature_effects import effects
from training.evaluation.metrics import Labels
from training.fitting.fit_model import learn
from training.fitting.split import Rows, Split, share, split_by_time_and_user
from training.leakage.screen import screen
from training.model_card.card import Report, warnings
from training.model_card.plots import Curves
from warehouse.tables import TIMESTAMP

MART = "fct_training_examples"
MIN_EXAMPLES = 200
# Contributions cost more than predictions. This many rows give their means to two digits.
MAX_EXPLAINED_ROWS = 20_000
_DAY_US = 86_400_000_000
_NEEDED = ("label", "is_treated", "exit_id", "user_id", "exited_at")


@dataclass(frozen=True)
class Trained:
    """A sealed bundle."""

    version: str
    folder: Path
    metrics: dict[str, float]
    warnings: tuple[str, ...] = ()  # reasons to distrust the metrics, as on the card


def train(
    examples: pa.Table,
    declared: FeatureContract,
    models: Path,
    *,
    trained_at: datetime,
    until: datetime,
    label_window_days: int,
    rules: TrainingRules,
    last: Bundle | None = None,
    threads: int = 0,
    advance: Callable[[str], None] = lambda _step: None,
) -> Trained:
    """Fit, measure, and write the bundle into `models`.

    `examples` are rows of `fct_training_examples` as known by `until`, which is part of the version's name. Training again on
    the same rows returns the existing bundle. `trained_at` and `until` have a time zone. The card shows how far the features have
    drifted since `last`, the model in use. `threads` 0 uses every core. `advance` receives the name of each step as it begins.

    Raises: ContractError when a column is absent or broken, a feature leaks, or the examples are too few or have one outcome.
    Nothing is written then.
    """
    advance("Training: splitting the examples by time and user")
    use = usable(examples, declared, label_window_days)
    label, exited_us = use.label, use.exited_us
    user_share = share(use.users, rules.seed)
    split = split_by_time_and_user(exited_us, user_share, label_window_days * _DAY_US, rules.judged_users_ratio)
    _check_split(label, split)

    seen, seen_label = examples.take(use.places[split.learned]), label[split.learned]
    contract, faults = declared.learn(seen, rules.min_level_users), Faults()
    encoded = contract.encode(seen, MART, faults)
    faults.check(MART)

    advance("Training: looking for leaks")
    screened = screen(seen, contract, seen_label, use.users.take(split.learned), rules=rules.leaks, seed=rules.seed)
    learned = learn(
        contract,
        encoded,
        seen_label,
        user_share[split.learned],
        count_fit=len(split.fit),
        rules=rules,
        threads=threads,
        advance=advance,
    )

    advance("Training: evaluating on later exits")
    test = examples.take(use.places[split.test])
    matrix = contract.encode(test, MART)
    truth, raw = label[split.test], learned.raw(matrix)
    probability = learned.calibration.apply(raw)
    train_rate = float(label[split.fit].mean())
    metrics = {
        **evaluate.measure(truth, probability, train_rate=train_rate),
        "brier_uncalibrated": float(np.mean((raw - truth) ** 2)),
        "calibration_error_uncalibrated": evaluate.calibration_error(truth, raw),
        "train_rate": train_rate,
        "gap_days": split.gap_us / _DAY_US,
        "count_rounds": float(learned.fitted.rounds),
        **{f"count_{name}": float(len(part)) for name, part in split.parts.items()},
        "count_treated_left_out": float(use.count_treated),
        "count_set_aside": float(use.count_set_aside),
    }
    users = use.users.take(split.test)
    simpler = baselines.predictions(contract, learned.fit, matrix, seed=rules.seed)
    step = -(-len(matrix) // MAX_EXPLAINED_ROWS)
    explained = matrix[::step]
    contributions = learned.fitter.contributions(learned.fitted.booster, explained)
    before = shift.last_reference(last)
    drift = shift.stability(contract, learned.fit[0], before) if before else None
    curves = Curves(
        truth,
        probability,
        contract.names,
        np.abs(contributions).mean(axis=0),
        uncalibrated=raw if learned.calibration.kind != "none" else None,
        effects=effects(
            contract,
            explained,
            truth[::step],
            probability[::step],
            contributions,
            users=users.take(np.arange(0, len(truth), step)),
        ),
        drift=drift,
    )

    advance("Training: writing the model and its card")
    report = Report(
        metrics=metrics,
        contract=contract,
        slices=evaluate.all_slices(slices.parts(test), truth, probability, users, seed=rules.seed),
        periods={
            name: (_moment(exited_us[part[0]]), _moment(exited_us[part[-1]]), float(label[part].mean()))
            for name, part in split.parts.items()
            if len(part)
        },
        trained_at=trained_at.astimezone(UTC),
        label_window_days=label_window_days,
        seed=rules.seed,
        intervals=evaluate.intervals(truth, probability, users, train_rate=train_rate, seed=rules.seed),
        baselines=baselines.against(truth, users, probability, simpler, train_rate=train_rate, seed=rules.seed),
        calibration_kind=learned.calibration.kind,
        screen=[(feature.name, feature.auc, feature.view) for feature in screened.features],
        permuted_auc=screened.permuted_auc,
        trials=[{**trial.parameters, "log_loss": trial.log_loss} for trial in learned.trials],
        parameters={name: value for name, value in learned.fitter.parameters.items() if name != "nthread"},
        judged_users_ratio=rules.judged_users_ratio,
        drift=drift,
        drift_against=last.version if last else None,
        out_of_range=faults.out_of_range,
    )
    version = write_bundle(
        models,
        bytes(learned.fitted.booster.save_raw("json")),
        learned.calibration,
        report,
        curves,
        reference=shift.reference(contract, learned.fit[0], learned.fit_users),
        until=until.astimezone(UTC),
        # Rounded up to the hour, because the exact moment belongs to one user.
        learned_until=hour_after(_moment(exited_us[split.learned].max())),
    )
    return Trained(version, models / version, metrics, tuple(warnings(report)))


@dataclass(frozen=True)
class Usable:
    """Examples that can be learned from, in the order of their exits: their row numbers, labels, moments and users.

    `exited_us` are microseconds since 1970, UTC. `count_treated` is the number left out because the user held a voucher.
    `count_set_aside` is the number without a required value, or with features from after their exit.
    """

    places: Rows
    label: Labels
    exited_us: Rows
    users: pa.ChunkedArray
    count_treated: int = 0
    count_set_aside: int = 0


def usable(examples: pa.Table, declared: FeatureContract, label_window_days: int) -> Usable:
    """Leave out treated users and rows that break the contract, and order the rest by time.

    Raises: ContractError when the rest cannot be learned from, or when so many rows break the contract that all are suspect.
    """
    absent = [name for name in _NEEDED if name not in examples.column_names]
    if absent:
        raise ContractError(f"{MART} lacks {', '.join(absent)}. Restore the columns in dbt.")
    declared.check_columns(examples.schema, MART)
    declared.check_missing(examples, MART)
    # Features are copied once, and only of rows in use: sorting a million rows took longer than the leak screen.
    is_treated = examples.column("is_treated").to_numpy().astype(bool)
    is_odd = ~declared.fits(examples) | _is_from_later(examples)
    untreated = np.flatnonzero(~is_treated & ~is_odd)
    keys = examples.select(["exited_at", "exit_id"]).take(untreated)
    order = pc.sort_indices(keys, [("exited_at", "ascending"), ("exit_id", "ascending")])
    places = untreated[order.to_numpy()]
    rows = examples.select(["label", "exited_at", "user_id"]).take(places)
    if rows.num_rows < MIN_EXAMPLES:
        raise ContractError(
            f"{MART} holds {rows.num_rows} untreated examples; training needs {MIN_EXAMPLES}. An exit becomes an "
            f"example {label_window_days} days after it, once late events have arrived. Wait, or load older history and run "
            "winback backfill."
        )
    labels = set(pc.unique(rows.column("label")).to_pylist())
    if not labels <= {0, 1}:
        others = ", ".join(sorted(map(str, labels - {0, 1})))
        raise ContractError(f"{MART}: label holds {others}; only 0 and 1 can be learned.")
    if len(labels) == 1:
        outcome = "unfinished" if labels == {1} else "finished"
        raise ContractError(
            f"All {rows.num_rows} examples in {MART} ended {outcome}, so there is nothing to learn. "
            "Check that completion_events in config/funnel.yml names the event that the app sends."
        )
    exited_us = rows.column("exited_at").cast(TIMESTAMP).cast(pa.int64()).to_numpy()
    return Usable(
        places,
        rows.column("label").to_numpy().astype(np.int64),
        exited_us,
        rows.column("user_id"),
        count_treated=int(is_treated.sum()),
        count_set_aside=int((is_odd & ~is_treated).sum()),
    )


def hour_after(moment: datetime) -> datetime:
    """Return the first full hour at or after a moment."""
    whole = moment.replace(minute=0, second=0, microsecond=0)
    return whole if whole == moment else whole + timedelta(hours=1)


def _is_from_later(examples: pa.Table) -> npt.NDArray[np.bool_]:
    """Mark examples with features made from events after their exit, if they are few; the leak screen refuses many."""
    later = np.zeros(examples.num_rows, dtype=bool)
    if "last_event_at" in examples.column_names:
        is_later = pc.greater(examples.column("last_event_at"), examples.column("exited_at"))
        later = pc.fill_null(is_later, False).to_numpy()
    users = pc.count_distinct(examples.column("user_id").filter(pa.array(later))).as_py()
    return np.zeros(len(later), dtype=bool) if is_the_whole(int(later.sum()), users, len(later)) else later


def _check_split(label: Labels, split: Split) -> None:
    for name in ("fit", "test"):
        part = label[split.parts[name]]
        if len(np.unique(part)) < 2:
            raise ContractError(
                f"Split by time, the {name} period holds {len(part)} of {len(label)} examples, without both outcomes "
                "among them. Load more history and run winback backfill, or train later."
            )


def _moment(microseconds: np.int64) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(microseconds))
