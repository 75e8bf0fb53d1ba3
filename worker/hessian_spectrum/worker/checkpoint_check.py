"""Trials of checkpoints in separate processes with limits on time and memory; the verdicts are stored."""

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hessian_spectrum.api_schemas.checkpoints import CheckpointVerdict
from hessian_spectrum.checkpoints.directory import ModelsDirectory
from hessian_spectrum.jobs.worker_registry import VerdictStore
from hessian_spectrum.worker.hardware import CRASHES, name_of_signal

SECONDS = 600.0
"""Largest duration of one trial in seconds, on a machine that has other work to do."""

OUT_OF_MEMORY = 75
"""Exit status of a trial that exceeded its memory limit."""

_SECONDS_BETWEEN_LOOKS = 0.2
_METHODS = ("forward-over-reverse", "double-backward")
# not with "-m", so that a search for workers by "-m hessian_spectrum.worker" does not find trials
_COMMAND = (sys.executable, "-P", "-c", "from hessian_spectrum.worker.checkpoint_trial import main; main()")

_logger = logging.getLogger(__name__)


class TrialEndedError(Exception):
    """Raised if a trial ended without a verdict; the message is the reason."""


@dataclass(frozen=True)
class CheckpointCheck:
    """Tries checkpoints of a models directory.

    Args:
        niceness: of a trial, on top of that of this process.
        command: that a trial is; its arguments are those of `worker.checkpoint_trial`.
    """

    models: ModelsDirectory
    verdicts: VerdictStore
    seconds: float = SECONDS
    niceness: int = 0
    command: Sequence[str] = _COMMAND

    def checked(
        self, name: str, sha256: str, kind: str, *, memory_bytes: int | None, look: Callable[[], object]
    ) -> CheckpointVerdict:
        """Return the verdict on a checkpoint, from a trial if there was none before.

        Args:
            name: Name of the checkpoint in the models directory.
            sha256: Digest of the checkpoint.
            kind: Kind of model, "gpt2" or "causal-lm".
            memory_bytes: Memory that the trial may take; None: without a limit.
            look: Called several times a second during a trial; an exception that it raises ends the trial.

        Returns:
            The verdict.
        """
        known = self.verdicts.of(sha256, kind)
        if known is not None and known.state != "unchecked":
            return known
        verdict = self._tried([str(self.models.path), name, kind, sha256], memory_bytes, look)
        self.verdicts.keep(sha256, kind, verdict)
        _logger.info("checkpoint %s as %s: %s", name, kind, verdict.state, extra={"event": "checked"})
        return verdict

    def _tried(
        self, arguments: Sequence[str], memory_bytes: int | None, look: Callable[[], object]
    ) -> CheckpointVerdict:
        """Try a checkpoint with recorded products, and with unrecorded ones if recording crashed the process."""
        limits = ["--niceness", str(self.niceness)]
        limits += [] if memory_bytes is None else ["--memory-bytes", str(memory_bytes)]
        options: list[str] = []
        try:
            for method in _METHODS:
                text, signal_name = self._run([*arguments, *limits, *options], look)
                if signal_name is None:
                    return CheckpointVerdict.model_validate_json(text)
                what = "recording its products" if not options else f"computing them by {options[1]}"
                reason = f"{what} ended a process by {signal_name}"
                options = ["--fallback-method", method, "--fallback-reason", reason]
            text, signal_name = self._run([*arguments, *limits, *options], look)
            if signal_name is not None:
                return CheckpointVerdict(state="refused", reason=f"its products end the process by {signal_name}")
            return CheckpointVerdict.model_validate_json(text)
        except TrialEndedError as error:
            return CheckpointVerdict(state="unchecked", reason=str(error))
        except ValueError:
            return CheckpointVerdict(state="unchecked", reason="its trial said something else than a verdict")

    def _run(self, arguments: Sequence[str], look: Callable[[], object]) -> tuple[str, str | None]:
        """Run a trial in a process of its own.

        Args:
            arguments: Command-line arguments of the trial.
            look: Called several times a second.

        Returns:
            What the trial printed, and the name of the signal by which its process crashed; None: it did not crash.

        Raises:
            TrialEndedError: If it ended otherwise.
        """
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        with tempfile.TemporaryFile("w+") as printed:
            pipes = {"stdin": subprocess.PIPE, "stdout": printed}
            with subprocess.Popen([*self.command, *arguments], env=environment, **pipes) as process:  # type: ignore[call-overload]  # noqa: S603
                try:
                    self._wait(process, look)
                finally:
                    process.kill()
            printed.seek(0)
            text = printed.read()
        if process.returncode < 0 and (name := name_of_signal(-process.returncode)) in CRASHES:
            return text, name
        if process.returncode != 0:
            raise TrialEndedError(_ending(process.returncode))
        return text, None

    def _wait(self, process: "subprocess.Popen[bytes]", look: Callable[[], object]) -> None:
        deadline = time.monotonic() + self.seconds
        while process.poll() is None:
            look()
            if time.monotonic() > deadline:
                raise TrialEndedError(f"its trial had not ended after {self.seconds:,.6g} s")
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _ending(status: int) -> str:
    if status == OUT_OF_MEMORY:
        return "its trial took more memory than it may; it is tried again before the first job that names it"
    if status < 0:
        name = name_of_signal(-status)
        return f"its trial died of {name}" + ("; it may need more memory" if name == "SIGKILL" else "")
    return f"its trial ended with status {status}"
