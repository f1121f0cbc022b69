"""Compares two bundles on exits that neither has learned from.

The exits lie more than a label window after the last exit that either learned from, so neither knew their outcomes. Users who
held a voucher are left out, as in training.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.errors import ContractError
from scoring.model import Model
from scoring.registry.bundles import Bundle
from training.evaluation.metrics import Floats
from training.evaluation.slices import parts
from training.pipeline import MART, hour_after
from training.promotion.comparison import ChallengeRules, concluded, judge, said
from training.promotion.verdict import Check, Verdict
from warehouse.tables import TIMESTAMP

_NEEDED = ("label", "is_treated", "user_id", "exited_at")


def evaluate(
    examples: pa.Table,
    champion: Bundle,
    challenger: Bundle,
    rules: ChallengeRules,
    label_window_days: int,
    *,
    seed: int = 0,
    threads: int = 0,
) -> Verdict:
    """Compare the challenger on later `examples`, rows of `fct_training_examples` in any order.

    A challenger is not better if it cannot be scored, if it is the champion, or if too few exits are available. Exits without a
    value that either contract requires are left out.

    Raises: ContractError when the examples lack a key, or the champion cannot be scored: the hourly run would stop too.
    """
    absent = [name for name in _NEEDED if name not in examples.column_names]
    if absent:
        raise ContractError(f"{MART} lacks {', '.join(absent)}. Restore the columns in dbt.")
    versions = (champion.version, challenger.version)
    if champion.version == challenger.version:
        same = Check(name="rivals", is_passed=False, says="The challenger is the champion itself.")
        return concluded([same], rules, seed, versions)

    untreated = examples.filter(pc.invert(examples.column("is_treated")))
    times = untreated.column("exited_at").cast(TIMESTAMP)
    after = max(champion.learned_until, challenger.learned_until) + timedelta(days=label_window_days)
    rows = untreated.filter(pc.greater(times, pa.scalar(after, TIMESTAMP)))
    try:
        ours = _probability(challenger, rows, threads)
    except ContractError as error:
        return concluded([Check(name="contract", is_passed=False, says=str(error))], rules, seed, versions)
    try:
        theirs = _probability(champion, rows, threads)
    except ContractError as error:
        raise ContractError(
            f"The champion cannot be scored, so there is nothing to compare with. {error} "
            f"If the contract was changed on purpose: winback promote {challenger.version} --force"
        ) from None

    fits = champion.contract.fits(rows) & challenger.contract.fits(rows)
    rows, ours, theirs = rows.filter(pa.array(fits)), ours[fits], theirs[fits]
    aside = f" {(~fits).sum():,} exits without a required value were left out." if not fits.all() else ""
    label = rows.column("label").to_numpy().astype(np.int64)
    span = pc.min_max(rows.column("exited_at").cast(TIMESTAMP)).as_py()
    verdict = judge(
        label,
        rows.column("user_id"),
        theirs,
        ours,
        parts(rows),
        rules=rules,
        seed=seed,
        versions=versions,
        # Rounded to the hour, because the exact moments belong to one user each.
        exited_at=(_hour_before(span["min"]), hour_after(span["max"])) if len(label) else None,
    )
    checks = [
        Check(name="contract", is_passed=True, says=f"The examples match the challenger's contract.{aside}"),
        *verdict.checks,
    ]
    missing = rules.min_examples - len(label)
    if missing > 0:
        told = f"Only exits after {after:%Y-%m-%d %H:%M} UTC count. {_when(times, after, missing, label_window_days)}"
        checks = [
            check.model_copy(update={"says": f"{check.says} {told}"}) if check.name == "examples" else check
            for check in checks
        ]
    return verdict.model_copy(update={"checks": tuple(checks), "says": said(checks)})


def _probability(bundle: Bundle, rows: pa.Table, threads: int) -> Floats:
    bundle.contract.check_columns(rows.schema, MART)
    matrix = bundle.contract.encode(rows, MART)
    return Model(bundle, threads=threads).predict(matrix).astype(np.float64)


def _hour_before(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _when(times: pa.ChunkedArray, after: datetime, missing: int, label_window_days: int) -> str:
    """Estimate up to which exit there will be enough, at the rate of the examples so far; empty without a rate."""
    span = pc.min_max(times).as_py()
    if not span["max"] or span["max"] == span["min"]:
        return "The examples are too few to estimate when there will be enough."
    a_day = len(times) / ((span["max"] - span["min"]) / timedelta(days=1))
    enough = max(span["max"], after) + timedelta(days=missing / a_day)
    return (
        f"At the average of {a_day:,.0f} examples a day, {missing:,} more will exist once exits up to {enough:%Y-%m-%d} are "
        f"examples: {label_window_days} days after them, once late events have arrived."
    )
