"""Properties of the sync: every row ends in exactly one outcome, and a dry run counts what the sync then does."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ContractError, WinbackError
from crm_sync.destination import BatchRefusedError, DeadlineExceededError, Outcome, Run, UnavailableError
from crm_sync.diff import Change
from crm_sync.dry_run import DryRunDestination
from crm_sync.suppression import Recheck, SuppressionList
from crm_sync.sync import sync
from tests.support.sync.builders import (
    ATTEMPTED,
    FINISHED,
    GRANTED,
    MAPPING,
    NEXT_WEEK,
    SCORED,
    TEN,
    RecordingDestination,
    fill,
    marts_in,
    outcomes,
    plan,
    row_of,
    run,
    written,
)
from warehouse.duckdb.warehouse import DuckDBWarehouse


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBWarehouse]:
    """One file for all examples. Each begins by emptying it, because creating a file takes longer than an example."""
    with marts_in(tmp_path_factory.mktemp("laws")) as context:
        yield context


@dataclass(frozen=True)
class Person:
    """A user: the pending row, a suppression during the sync, and the CRM's outcome."""

    kind: str
    probability: float
    fate: str = "delivered"
    suppressed_because: str | None = None
    news: str | None = None

    def row(self, user_id: str) -> dict[str, object]:
        row = {
            "withdrawal": lambda: row_of(user_id, before=SCORED | GRANTED, **FINISHED),
            "scored withdrawal": lambda: row_of(user_id, SCORED | GRANTED, churn_probability=self.probability),
            "grant": lambda: row_of(user_id, churn_probability=self.probability, **GRANTED),
            "score": lambda: row_of(user_id, churn_probability=self.probability),
            "unchanged": lambda: row_of(user_id, before=SCORED, churn_scored_at=NEXT_WEEK),
        }[self.kind]()
        return row | {"suppressed_because": self.suppressed_because}

    @property
    def is_withdrawal(self) -> bool:
        return "withdrawal" in self.kind

    @property
    def expected(self) -> str:
        """The user's outcome in a run that is not stopped."""
        if self.suppressed_because:
            return f"suppressed: {self.suppressed_because}"
        if self.news == "erased" or (self.news and not self.is_withdrawal):
            return f"suppressed: {self.news}"
        return "unchanged" if self.kind == "unchanged" else self.fate


PEOPLE = st.lists(
    st.builds(
        Person,
        st.sampled_from(["withdrawal", "scored withdrawal", "grant", "grant", "score", "score", "unchanged"]),
        st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.6]),
        st.sampled_from(["delivered"] * 6 + ["rejected", "deferred", "poison"]),
        st.sampled_from([None] * 6 + ["erased", "holdout"]),
        st.sampled_from([None] * 6 + ["erased", "finished", "no_consent"]),
    ),
    max_size=40,
)
ENDS = [UnavailableError("down"), DeadlineExceededError("late", "deadline"), ContractError("no permission")]


@dataclass
class Known(Recheck):
    """A recheck with a fixed suppression list."""

    known: Mapping[str, str] = field(default_factory=dict)

    def news(self) -> SuppressionList:
        return SuppressionList(self.known)


@dataclass
class Moody(RecordingDestination):
    """A CRM with a fixed outcome for each user, which raises `end` after a number of requests."""

    fates: Mapping[str, str] = field(default_factory=dict)
    end: WinbackError | None = None
    end_after: int = 0
    count: int = 0
    withdrawals_under_way: int = 0
    said: dict[str, str] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    sent: list[str] = field(default_factory=list)
    overtaken: list[str] = field(default_factory=list)

    def send(self, batch: Sequence[Change], run: Run) -> list[Outcome]:
        users, is_withdrawal = [change.external_id for change in batch], batch[0].is_withdrawal
        with self.lock:
            self.count += 1
            self.asked |= set(users)
            self.withdrawals_under_way += is_withdrawal
            if not is_withdrawal and self.withdrawals_under_way:
                self.overtaken += users
            is_over = self.end is not None and self.count > self.end_after
        try:
            if self.end and is_over:
                raise self.end
            if "poison" in {self.fates[user] for user in users}:
                if len(users) == 1:
                    self.said[users[0]] = "rejected"
                raise BatchRefusedError(400, "http_400")
            with self.lock:
                assert not self.said.keys() & set(users), "a user was sent twice"
                self.said |= {user: self.fates[user] for user in users}
                self.sent += users
            return [Outcome(self.fates[user]) for user in users]  # type: ignore[arg-type]
        finally:
            with self.lock:
                self.withdrawals_under_way -= is_withdrawal


def ids(people: Sequence[Person]) -> dict[str, Person]:
    return {f"u{number:02d}": person for number, person in enumerate(people)}


def begin(warehouse: DuckDBWarehouse, everybody: Mapping[str, Person]) -> Known:
    for table in ("ops.deliveries", "marts.crm_pending"):
        warehouse.connection.execute(f"delete from {table}")
    fill(warehouse, [person.row(user) for user, person in everybody.items()])
    news = {user: person.news for user, person in everybody.items() if person.news}
    return Known(warehouse, TEN, {}, lambda: ATTEMPTED, known=news)


def in_order(everybody: Mapping[str, Person]) -> list[str]:
    """The users in the order of sending: withdrawals first, then the most valuable."""

    def rank(user: str) -> tuple[bool, bool, float, str]:
        row = everybody[user].row(user)
        probability = row["churn_probability"]
        value = -probability if isinstance(probability, float) else 1.0
        return not row["is_withdrawal"], not row["is_voucher_eligible"], value, user

    return sorted(everybody, key=rank)


@given(
    people=PEOPLE,
    max_batch=st.integers(1, 9),
    max_in_flight=st.integers(1, 4),
    ends=st.tuples(st.none() | st.sampled_from(ENDS), st.integers(0, 12)),
)
def test_every_row_ends_in_one_outcome_and_a_delivery_is_the_crm_s_word(
    warehouse: DuckDBWarehouse,
    people: list[Person],
    max_batch: int,
    max_in_flight: int,
    ends: tuple[WinbackError | None, int],
) -> None:
    end, end_after = ends
    everybody = ids(people)
    recheck = begin(warehouse, everybody)
    fates = {user: person.fate for user, person in everybody.items()}
    crm = Moody(max_batch, max_in_flight, fates=fates, end=end, end_after=end_after)
    counts, stopped = run(warehouse, crm, plan(warehouse, recheck=recheck, max_rejected_ratio=1.0))

    if crm.count > end_after:
        assert stopped is end
    else:
        assert stopped is None or not counts.delivered + counts.rejected
    assert counts.differing == len(people)
    # The log holds exactly the CRM's outcomes, and none for suppressed users. If the run had to stop, users refused alone stay
    # pending, because the user or the request may be at fault.
    said = {user: what for user, what in crm.said.items() if what in {"delivered", "rejected"}}
    refused_alone = {user for user in said if fates[user] == "poison"} if stopped else set()
    assert outcomes(warehouse).items() <= said.items()
    assert said.keys() - outcomes(warehouse).keys() <= refused_alone
    # Users in a request were logged before, and are not logged as deferred.
    assert crm.asked - refused_alone <= set(written(warehouse, "sending")) - set(written(warehouse, "deferred"))
    assert {everybody[user].expected for user in crm.sent} <= {"delivered", "rejected", "deferred"}
    assert counts.delivered == Counter(crm.said.values())["delivered"]
    assert counts.withdrawals == sum(everybody[u].is_withdrawal for u, w in crm.said.items() if w == "delivered")
    assert crm.overtaken == []
    if stopped is None:
        by_outcome = Counter(person.expected for person in people)
        assert counts.rejected == by_outcome["rejected"] + by_outcome["poison"]
        assert (counts.delivered, counts.unchanged) == (by_outcome["delivered"], by_outcome["unchanged"])
        assert counts.deferred == ({"unconfirmed": by_outcome["deferred"]} if by_outcome["deferred"] else {})
        suppressed = {k.removeprefix("suppressed: "): n for k, n in by_outcome.items() if k.startswith("suppressed")}
        assert counts.suppressed == suppressed
    if max_in_flight == 1:
        assert crm.sent == [user for user in in_order(everybody) if user in set(crm.sent)]


@given(people=PEOPLE, max_batch=st.integers(1, 9), max_in_flight=st.integers(2, 4), end_after=st.integers(0, 6))
def test_no_grant_goes_out_before_every_withdrawal_has_its_answer(
    warehouse: DuckDBWarehouse, people: list[Person], max_batch: int, max_in_flight: int, end_after: int
) -> None:
    everybody = ids(people)
    recheck = begin(warehouse, everybody)
    fates = {user: person.fate for user, person in everybody.items()}
    crm = Moody(max_batch, max_in_flight, fates=fates, end=UnavailableError("down"), end_after=end_after)
    run(warehouse, crm, plan(warehouse, recheck=recheck, max_rejected_ratio=1.0))

    due = {user for user, person in everybody.items() if person.is_withdrawal and person.expected == person.fate}
    if any(not everybody[user].is_withdrawal for user in crm.sent):
        assert due <= crm.said.keys()
    assert crm.overtaken == []


@given(people=PEOPLE, max_batch=st.integers(1, 9))
def test_a_rehearsal_counts_what_the_sync_then_does_and_writes_nothing(
    warehouse: DuckDBWarehouse, people: list[Person], max_batch: int
) -> None:
    everybody = ids(people)
    recheck = begin(warehouse, everybody)
    how = plan(warehouse, recheck=recheck)
    rehearsed, stopped = sync(warehouse, DryRunDestination(max_batch), MAPPING, how)
    assert (warehouse.query("select * from ops.deliveries").num_rows, stopped) == (0, None)
    assert rehearsed.is_complete

    crm = RecordingDestination(max_batch)
    counts, _ = run(warehouse, crm, how)
    assert replace(rehearsed, samples=[]) == counts
    assert counts.delivered == len(crm.arrived)


def test_a_rehearsal_shows_a_few_of_what_would_be_told_and_nobody_s_id(warehouse: DuckDBWarehouse) -> None:
    recheck = begin(warehouse, ids([Person("grant", probability / 10) for probability in range(1, 7)]))
    counts, _ = sync(warehouse, DryRunDestination(2), MAPPING, plan(warehouse, recheck=recheck))
    assert [sample["churn_probability"] for sample in counts.samples] == [0.6, 0.5, 0.4]
    assert {tuple(sample) for sample in counts.samples} == {
        (
            "churn_probability",
            "churn_risk_band",
            "churn_scored_at",
            "churn_model_version",
            "voucher_eligible",
            "voucher_reason",
            "voucher_valid_until",
            "experiment_arm",
        )
    }
