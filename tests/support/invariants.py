"""Laws that must hold after any failure, as pure functions of the tables and the CRM; they count their checks."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

from crm_sync.field_mapping import KINDS, METADATA_FIELDS, FieldMapping, Kind
from scoring.policy import Policy

Row = dict[str, Any]
# The query of each table. It reads everything, because the worlds are small.
ASKED = {
    "runs": "select * from ops.runs order by epoch",
    "decisions": "select * from staging.stg_ops__decisions order by exit_id, epoch",
    "staged": "select exit_id, run_id from ops.decisions",
    "exits": "select exit_id, user_id, closed_at, exited_at from marts.fct_unfinished_exits where not is_dissolved"
    " order by exit_id",
    "sessions": "select session_id, user_id, started_at, ended_at, count_events from intermediate.int_sessions"
    " where not is_dissolved order by session_id",
    "deliveries": "select * from ops.deliveries",
    "profiles": "select * from marts.crm_profiles order by user_id",
    "acknowledged": "select * from marts.crm_acknowledged order by user_id",
    "pending": "select * from marts.crm_pending",
    "arrivals": "select * from marts.fct_arrivals order by window_from",
}
# Equal in two worlds after any failure. Run ids and times of attempts differ between worlds.
COMPARED = ("runs", "decisions", "exits", "sessions", "profiles", "acknowledged", "arrivals")
_OWN = {"run_id", "committed_at", "acknowledged_at", "rejected_at", "is_in_doubt"}


@dataclass(frozen=True)
class Write:
    """A write to a user that the CRM accepted, in order: its run, and each changed property, before and after."""

    user_id: str
    run_id: str | None
    changed: dict[str, list[Any]]


@dataclass(frozen=True)
class Facts:
    """All facts after a run: the tables' rows by name (see ASKED), and the CRM's content and writes.

    `runs_before` are the ids of the runs before the tested ones.
    """

    tables: dict[str, list[Row]]
    crm: dict[str, Row]
    writes: list[Write]
    policy: Policy
    fields: FieldMapping
    runs_before: frozenset[str] = frozenset()


@dataclass
class Verdict:
    """How often a law was checked, and where it is violated."""

    checked: int = 0
    violations: list[str] = field(default_factory=list)

    def see(self, is_so: bool, otherwise: str) -> None:
        """Count one check, and record a violation."""
        self.checked += 1
        if not is_so:
            self.violations.append(otherwise)


def no_exit_is_lost(facts: Facts) -> Verdict:
    """Every unfinished exit that closed after history and up to the watermark is decided, and each run's counts add up."""
    seen, runs = Verdict(), facts.tables["runs"]
    history, watermark = runs[0]["window_until"], runs[-1]["window_until"]
    decided = {row["exit_id"] for row in facts.tables["decisions"]}
    for row in facts.tables["exits"]:
        if history < row["closed_at"] <= watermark:
            seen.see(row["exit_id"] in decided, f"exit {row['exit_id']} has no decision")
    of_run = defaultdict[str, list[Row]](list)
    for row in facts.tables["decisions"]:
        of_run[row["run_id"]].append(row)
    for run in runs[1:]:
        rows = of_run.pop(run["run_id"], [])
        kinds = Counter(row["disposition"] for row in rows)
        counts = (len(rows), kinds["scored"], kinds["skipped"], sum(row["is_eligible"] for row in rows))
        said = tuple(int(run[f"count_{name}"]) for name in ("exits", "scored", "skipped", "eligible"))
        seen.see(counts == said, f"epoch {run['epoch']} says {said} and has {counts}")
        seen.see(said[0] == said[1] + said[2], f"epoch {run['epoch']}: {said} do not add up")
    seen.see(not of_run, f"decisions of {len(of_run)} runs that are no epoch's")
    return seen


def no_decision_is_made_twice(facts: Facts) -> Verdict:
    """An exit has one committed decision, and no user gets a second voucher within the cool-down."""
    seen = Verdict()
    for exit_id, count in Counter(row["exit_id"] for row in facts.tables["decisions"]).items():
        seen.see(count == 1, f"exit {exit_id} has {count} decisions")
    grants = defaultdict[str, list[datetime]](list)
    for row in facts.tables["decisions"]:
        if row["is_eligible"]:
            grants[row["user_id"]].append(row["decided_at"])
    for user, moments in grants.items():
        moments.sort()
        gaps = [b - a for a, b in pairwise(moments)]
        cool_down = timedelta(days=facts.policy.voucher.cool_down_days)
        seen.see(all(gap >= cool_down for gap in gaps), f"{user} was granted {len(moments)} vouchers")
    return seen


def budgets_are_kept(facts: Facts) -> Verdict:
    """No run and no day grants more than config/vouchers.yml allows."""
    seen, rule = Verdict(), facts.policy.voucher
    granted = [row for row in facts.tables["decisions"] if row["is_eligible"]]
    for run_id, count in Counter(row["run_id"] for row in granted).items():
        seen.see(count <= rule.budget_per_run, f"run {run_id} granted {count}")
    days: Iterable[tuple[date, int]] = Counter(row["decided_at"].date() for row in granted).items()
    for day, count in days:
        seen.see(count <= rule.budget_per_day, f"{day} has {count} grants")
    return seen


def the_crm_holds_the_desired_state(facts: Facts) -> Verdict:
    """For every user who may be sent, except dead letters, the CRM holds the desired state, a score to within the step."""
    seen = Verdict()
    dead = {row["user_id"] for row in facts.tables["acknowledged"] if row["rejected_hash"] is not None}
    for desired in facts.tables["profiles"]:
        user = desired["user_id"]
        is_known = user in facts.crm
        if user in dead or _is_hidden(facts, desired) or not (is_known or _is(desired["churn_probability"])):
            continue
        held = facts.crm.get(user, {})
        for name, target in facts.fields.fields.items():
            if name in METADATA_FIELDS:
                continue
            wanted, found = desired[name] if _is(desired[name]) else None, canonical(held.get(target.property), name)
            if wanted is None and not target.clearable:
                continue
            seen.see(
                _agree(name, canonical(wanted, name), found, facts.fields.churn_probability_step),
                f"{user}: {target.property} is {found!r}, desired {wanted!r}",
            )
    return seen


def nobody_suppressed_is_told(facts: Facts) -> Verdict:
    """No run sends the CRM an erased user, a user of the hidden holdout, or a user without a desired state."""
    seen = Verdict()
    told_now = {write.user_id for write in facts.writes if write.run_id not in facts.runs_before}
    told_ever = {write.user_id for write in facts.writes}
    known = {row["user_id"]: row for row in facts.tables["profiles"]}
    for user, desired in known.items():
        if desired["is_erased"]:
            seen.see(user not in told_now, f"{user} is erased and was told")
        elif _is_hidden(facts, desired):
            seen.see(user not in told_ever, f"{user} is in the hidden holdout and was told")
    for user in told_ever:
        seen.see(user in known, f"{user} was told and has no desired state")
    return seen


def deliveries_are_true(facts: Facts) -> Verdict:
    """For each row logged as delivered, the CRM accepted a write of that run, and then held what the row says was sent."""
    seen = Verdict()
    after: dict[tuple[str, str | None], Row] = {}
    held = defaultdict[str, Row](dict)
    for write in facts.writes:
        held[write.user_id] |= {name: pair[1] for name, pair in write.changed.items()}
        after[write.user_id, write.run_id] = dict(held[write.user_id])
    properties = {target.property: name for name, target in facts.fields.fields.items()}
    for row in facts.tables["deliveries"]:
        if row["outcome"] != "delivered":
            continue
        found = after.get((row["user_id"], row["run_id"]))
        if found is None:
            seen.see(False, f"{row['user_id']} of {row['run_id']} is logged, and the CRM never heard of it")
            continue
        wrong = [
            sent
            for sent in row["fields_sent"].split(",")
            if not _agree(
                name := properties[sent], canonical(row[name], name), canonical(found.get(sent), name), step=0
            )
        ]
        seen.see(not wrong, f"{row['user_id']} of {row['run_id']}: the CRM held another {', '.join(wrong)}")
    return seen


def nothing_acknowledged_is_sent_again(facts: Facts) -> Verdict:
    """A state that was logged as delivered is not logged as delivered again within the epoch."""
    seen = Verdict()
    rows = (row for row in facts.tables["deliveries"] if row["outcome"] == "delivered")
    for key, count in Counter((row["user_id"], row["desired_hash"], row["epoch"]) for row in rows).items():
        seen.see(count == 1, f"{key[0]} was delivered {count} times in epoch {key[2]}")
    return seen


def nothing_is_pending(facts: Facts) -> Verdict:
    """After an undisturbed run nothing is left to send."""
    seen = Verdict()
    left = [row["user_id"] for row in facts.tables["pending"] if row["suppressed_because"] is None]
    seen.see(not left, f"{len(left)} users are pending")
    return seen


def nobody_is_left_in_doubt(facts: Facts) -> Verdict:
    """The CRM's state of every user is known, except dead letters: a delivery without a reply was sent again."""
    seen = Verdict()
    for row in facts.tables["acknowledged"]:
        is_dead = row["rejected_hash"] is not None
        seen.see(is_dead or not row.get("is_in_doubt"), f"{row['user_id']} is in doubt")
    return seen


def nothing_staged_is_left_to_count(facts: Facts) -> Verdict:
    """Decisions of runs that never committed may remain. Under a committed run's id, each exit occurs once."""
    seen = Verdict()
    committed = {row["run_id"] for row in facts.tables["runs"]}
    staged = Counter((row["exit_id"], row["run_id"]) for row in facts.tables["staged"] if row["run_id"] in committed)
    for (exit_id, run_id), count in staged.items():
        seen.see(count == 1, f"{exit_id} lies {count} times under {run_id}")
    return seen


def equal_to(twin: Facts) -> Callable[[Facts], Verdict]:
    """Return the law that this world equals its undisturbed twin."""

    def it_is_as_its_undisturbed_twin(facts: Facts) -> Verdict:
        seen = Verdict()
        for name in COMPARED:
            mine, its = ([_plain(row) for row in each.tables[name]] for each in (facts, twin))
            seen.see(mine == its, f"{name}: {_first_difference(mine, its)}")
        for user in sorted(facts.crm.keys() | twin.crm.keys()):
            seen.see(facts.crm.get(user) == twin.crm.get(user), f"the CRM differs of {user}")
        return seen

    return it_is_as_its_undisturbed_twin


LAWS: tuple[Callable[[Facts], Verdict], ...] = (
    no_exit_is_lost,
    no_decision_is_made_twice,
    budgets_are_kept,
    the_crm_holds_the_desired_state,
    nobody_suppressed_is_told,
    deliveries_are_true,
    nothing_is_pending,
    nobody_is_left_in_doubt,
    nothing_staged_is_left_to_count,
)


def judged(facts: Facts, *more: Callable[[Facts], Verdict]) -> dict[str, Verdict]:
    """Check every law, by name."""
    return {law.__name__.replace("_", " "): law(facts) for law in (*LAWS, *more)}


def canonical(value: Any, name: str) -> Any:
    """Normalize a value to what it means, however a CRM stores it: times to the second, texts sorted."""
    if not _is(value):
        return None
    kind: Kind = KINDS[name]
    if kind == "number":
        return round(float(value), 4)
    if kind == "flag":
        return str(value).lower() == "true"
    if kind == "time":
        return _moment(value)
    if kind == "texts":
        return tuple(value if isinstance(value, list) else re.split(r"\s*;\s*", value))
    return str(value)


def _moment(value: Any) -> datetime:
    if isinstance(value, str):
        is_epoch = value.lstrip("-").isdigit()
        value = datetime.fromtimestamp(int(value) / 1_000, UTC) if is_epoch else datetime.fromisoformat(value)
    moment: datetime = value.astimezone(UTC).replace(microsecond=0)
    return moment


def _is(value: Any) -> bool:
    """Whether a value is neither absent nor NaN."""
    return value is not None and value == value  # noqa: PLR0124 - what is not equal to itself is none


def _agree(name: str, wanted: Any, found: Any, step: float) -> bool:
    if name == "churn_probability" and step and wanted is not None and found is not None:
        return bool(abs(wanted - found) < step)
    if KINDS[name] == "texts" and wanted is not None and found is not None:
        return sorted(wanted) == sorted(found)  # a multi-select does not keep the order
    return bool(wanted == found)


def _is_hidden(facts: Facts, desired: Row) -> bool:
    return bool(desired["is_erased"]) or (not facts.fields.tell_holdout and desired["experiment_arm"] == "holdout")


def _plain(row: Row) -> Row:
    return {name: value if _is(value) else None for name, value in row.items() if name not in _OWN}


def _first_difference(mine: list[Row], its: list[Row]) -> str:
    if len(mine) != len(its):
        return f"{len(mine)} rows, not {len(its)}"
    pairs = ((a, b) for a, b in zip(mine, its, strict=True) if a != b)
    a, b = next(pairs, ({}, {}))
    return str({name: (a[name], b.get(name)) for name in a if a[name] != b.get(name)})
