"""The campaign of faults in short, and that what it looks for would be found."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.chaos.campaign.attempts import Attempt, Attempts, overlaps, unlawful_ends
from tests.chaos.campaign.campaign import Report, run_campaign
from tests.chaos.campaign.faults import MIXED, REDIS, Killer, Pause, drawn, each_once


def expect_clean(report: Report, num_faults: int) -> None:
    assert report.is_clean, report.table()
    assert report.faults.total() == num_faults
    assert report.counts["results compared"] > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nothing_is_lost_wrong_or_run_twice_after_any_fault(tmp_path: Path) -> None:
    seed = time.time_ns() % 10**6
    report = run_campaign(tmp_path, each_once(seed), seed)
    expect_clean(report, len(MIXED))
    assert max(report.faults.values()) == 1


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_nothing_is_lost_when_redis_dies_again_and_again(tmp_path: Path) -> None:
    seed = time.time_ns() % 10**6
    expect_clean(run_campaign(tmp_path, drawn(REDIS, 5, seed), seed), 5)


def test_faults_are_drawn_by_their_weights_and_each_kind_once() -> None:
    assert drawn(MIXED, 20, seed=1) == drawn(MIXED, 20, seed=1) != drawn(MIXED, 20, seed=2)
    assert set(drawn(REDIS, 5, seed=0)) == {Killer.redis}
    assert set(each_once(3)) == set(MIXED)
    assert len(each_once(3)) == len(MIXED) == 13


def test_an_attempt_beside_the_next_one_is_found() -> None:
    first = Attempt("a", 1, 7, 10.0, 15.0, "lost")
    second = Attempt("a", 2, 8, 13.0, 20.0, "succeeded")
    other = Attempt("b", 1, 8, 0.0, 30.0, "succeeded")
    [found] = overlaps([second, other, first], [])
    assert (found.job_id, found.seconds, found.attempts) == ("a", 2.0, (1, 2))
    # what stood still did not compute
    assert overlaps([first, second], [Pause([7], 12.0, 14.5)])[0].seconds == 0.5
    # nor does what goes on after the other has ended
    assert overlaps([first, Attempt("a", 2, 8, 13.0, 13.5, "succeeded")], [])[0].seconds == 0.5
    # what wrote its end with a lease had stopped before the next one could begin
    assert overlaps([Attempt("a", 1, 7, 10.0, 15.0, "queued"), second], []) == []


def test_a_job_that_is_closed_twice_or_too_early_is_found() -> None:
    ends = [("succeeded", "succeeded"), ("succeeded", ""), ("", "failed"), ("lost", "cancelled"), ("queued", "queued")]
    attempts = [
        Attempt(str(job), number, 1, 0.0, 1.0, state)
        for job, states in enumerate(ends)
        for number, state in enumerate(states, 1)
    ]
    assert unlawful_ends(attempts) == [
        "job 0 was closed by attempts [1, 2] of 2",
        "job 1 was closed by attempts [1] of 2",
    ]


def test_attempts_are_read_from_a_log_that_grows(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("Serving at ...\n")
    attempts = Attempts(log)
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    lines = [
        {"time": at, "event": "claimed", "job_id": "a", "attempt": 1, "pid": os.getpid()},
        {"time": at, "event": "ended", "job_id": "a", "attempt": 1, "pid": os.getpid(), "state": "succeeded"},
        {"time": at, "event": "claimed", "job_id": "b", "attempt": 1, "pid": 2**30},
    ]
    with log.open("a", buffering=1) as file:
        for line in lines:
            text = json.dumps(line)
            file.write(text[:9])
            time.sleep(0.05)
            file.write(text[9:] + "\n")
    deadline = time.monotonic() + 20
    while not all(attempts._found.get((job, 1)) and attempts._found[job, 1].ended for job in "ab"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    ended, dead = attempts.close()
    assert (ended.state, ended.ended, ended.begun) == ("succeeded",) + (datetime.fromisoformat(at).timestamp(),) * 2
    assert dead.state == ""
    assert dead.ended is not None
