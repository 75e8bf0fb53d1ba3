"""Trials of checkpoints in processes of their own: how they end, and what is kept of them."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hessian_spectrum.api_schemas.checkpoints import CheckpointVerdict
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.jobs.worker_registry import SECONDS_KEPT, SECONDS_UNTIL_ANOTHER_TRIAL, VerdictStore
from hessian_spectrum.worker.checkpoint_check import CheckpointCheck

SHA = "0" * 64
START = """
import os, signal, sys, time
options = sys.argv[5:]
def crash(name): os.kill(os.getpid(), getattr(signal, name))
def say(**fields):
    import json
    print(json.dumps({"state": "loadable"} | fields))
"""
SAY_HOW = """
method = options[options.index("--fallback-method") + 1] if "--fallback-method" in options else None
reason = options[options.index("--fallback-reason") + 1] if method else None
say(fallback_method=method, fallback_reason=reason)
"""


@pytest.fixture
def check(redis_client: Any, tmp_path: Path) -> Callable[..., CheckpointCheck]:
    """One whose trials run this program."""
    verdicts = VerdictStore(redis_client, lambda: ["version-1"])

    def build(program: str, seconds: float = 60.0) -> CheckpointCheck:
        command = (sys.executable, "-S", "-c", START + program)
        return CheckpointCheck(ModelsDirectory(tmp_path), verdicts, seconds, command=command)

    return build


def checked(check: CheckpointCheck, look: Callable[[], object] = lambda: None) -> CheckpointVerdict:
    return check.checked("tiny", SHA, "gpt2", memory_bytes=2**30, look=look)


@pytest.mark.parametrize("signal_name", ["SIGSEGV", "SIGABRT", "SIGBUS"])
def test_where_recording_ends_the_process_products_are_not_recorded(check: Any, signal_name: str) -> None:
    program = f"if '--fallback-method' not in options: crash('{signal_name}')" + SAY_HOW
    verdict = checked(check(program))
    assert (verdict.state, verdict.fallback_method) == ("loadable", "forward-over-reverse")
    assert verdict.fallback_reason == f"recording its products ended a process by {signal_name}"


def test_where_forward_mode_ends_the_process_it_is_not_used(check: Any) -> None:
    verdict = checked(check("if 'double-backward' not in options: crash('SIGSEGV')" + SAY_HOW))
    assert (verdict.state, verdict.fallback_method) == ("loadable", "double-backward")


def test_a_checkpoint_that_ends_every_process_is_refused_with_the_signal(check: Any) -> None:
    verdict = checked(check("crash('SIGFPE')"))
    assert verdict == CheckpointVerdict(state="refused", reason="its products end the process by SIGFPE")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("crash('SIGKILL')", "its trial died of SIGKILL; it may need more memory"),
        ("crash('SIGTERM')", "its trial died of SIGTERM"),
        ("sys.exit(75)", "its trial took more memory than it may; it is tried again before the first job"),
        ("sys.exit(1)", "its trial ended with status 1"),
        ("print('hello')", "its trial said something else than a verdict"),
        ("time.sleep(60)", "its trial had not ended after 0.5 s"),
    ],
)
def test_a_trial_without_a_verdict_leaves_the_checkpoint_unchecked(
    check: Any, redis_client: Any, program: str, reason: str
) -> None:
    verdict = checked(check(program, seconds=0.5 if "sleep" in program else 60.0))
    assert verdict.state == "unchecked"
    assert (verdict.reason or "").startswith(reason)
    (key,) = redis_client.keys("spectrum:checkpoint-verdict:*")
    assert 0 < redis_client.ttl(key) <= SECONDS_UNTIL_ANOTHER_TRIAL
    assert checked(check("say()")).state == "loadable"  # it is tried again by who needs it


def test_a_verdict_is_kept_for_this_version_of_the_code(check: Any, redis_client: Any) -> None:
    first = checked(check("say(state='refused', reason='because')"))
    assert checked(check("crash('SIGSEGV')")) == first
    (key,) = redis_client.keys("spectrum:checkpoint-verdict:*")
    assert SECONDS_UNTIL_ANOTHER_TRIAL < redis_client.ttl(key) <= SECONDS_KEPT
    both = VerdictStore(redis_client, lambda: ["version-1", "version-2"])
    assert both.of(SHA, "gpt2") == first
    assert both.of(SHA, "causal-lm") is None
    VerdictStore(redis_client, lambda: ["version-2"]).keep(SHA, "gpt2", CheckpointVerdict(state="loadable"))
    assert both.of(SHA, "gpt2") == CheckpointVerdict(state="loadable")
    assert VerdictStore(redis_client, lambda: ["version-3"]).of(SHA, "gpt2") is None


def test_no_two_workers_try_the_same_checkpoint_at_once(redis_client: Any) -> None:
    verdicts = VerdictStore(redis_client, lambda: ["version-1"])
    assert verdicts.may_try(SHA, "gpt2", 60)
    assert not verdicts.may_try(SHA, "gpt2", 60)
    assert verdicts.may_try(SHA, "causal-lm", 60)
    verdicts.has_tried(SHA, "gpt2")
    assert verdicts.may_try(SHA, "gpt2", 60)


def test_a_job_that_is_cancelled_ends_the_trial(check: Any, redis_client: Any, tmp_path: Path) -> None:
    class CancelledError(Exception):
        pass

    begun = tmp_path / "begun"

    def look() -> None:
        if begun.exists():
            raise CancelledError

    started = time.monotonic()
    with pytest.raises(CancelledError):
        checked(check(f"open({str(begun)!r}, 'w'); time.sleep(60)"), look)
    assert time.monotonic() - started < 50
    assert redis_client.keys("spectrum:checkpoint-verdict:*") == []
