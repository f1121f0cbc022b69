"""Deadline: a sync's waits end at its deadline or when it is stopped, and never last longer."""

import threading

import pytest

from crm_sync.deadline import Deadline
from crm_sync.destination import DeadlineExceededError
from tests.support.sync.builders import RUN_ID, Time, deadline


def test_before_the_deadline_waits_take_as_long_as_they_are() -> None:
    time = Time()
    run = deadline(10, time)
    run.check()
    run.sleep(4)
    run.sleep(5)
    assert (run.run_id, run.clock(), time.now) == (RUN_ID, 9, 9)


@pytest.mark.parametrize("seconds", [10, 10.5, 3_600, float("inf")])
def test_a_wait_that_would_end_at_the_deadline_or_later_is_not_begun(seconds: float) -> None:
    time = Time()
    with pytest.raises(DeadlineExceededError) as left:
        deadline(10, time).sleep(seconds)
    assert (left.value.code, time.now) == ("deadline", 0)
    assert str(left.value) == "The run's time was up before everything was sent; the next run continues."


@pytest.mark.parametrize("seconds_left", [0, -1])
def test_a_run_whose_time_is_up_before_it_begins_leaves_at_once(seconds_left: float) -> None:
    with pytest.raises(DeadlineExceededError):
        deadline(seconds_left).check()


def test_a_wait_during_which_the_time_ran_out_ends_the_run() -> None:
    time = Time()
    run = Deadline(RUN_ID, 10, clock=time, wait=lambda seconds: time.add(seconds + 5))
    with pytest.raises(DeadlineExceededError) as left:
        run.sleep(6)
    assert left.value.code == "deadline"


def test_a_run_told_to_stop_says_so_at_every_look() -> None:
    run = deadline()
    assert not run.is_stopped
    run.stop("SIGTERM")
    assert run.is_stopped
    for look in (run.check, lambda: run.sleep(0), lambda: run.sleep(1)):
        with pytest.raises(DeadlineExceededError, match=r"was stopped \(SIGTERM\)") as left:
            look()
        assert left.value.code == "stopped"


def test_a_stop_ends_the_waits_of_every_thread() -> None:
    """The waits are days long: the test ends only because they are cut short."""
    run = Deadline(RUN_ID, 1e6)
    ready, codes = threading.Barrier(4), list[str]()

    def wait() -> None:
        ready.wait()
        try:
            run.sleep(1e5)
        except DeadlineExceededError as left:
            codes.append(left.code)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    run.stop("SIGTERM")
    for thread in threads:
        thread.join()
    assert codes == ["stopped"] * 3
