"""The demo: the main kinds of job on real input, as a report."""

import contextlib
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hessian_spectrum.api_schemas.closed_form import ClosedFormSpectrum
from hessian_spectrum.api_schemas.estimate_text import estimated
from hessian_spectrum.api_schemas.jobs import ENDED_STATES, AnyJobResult, Job
from hessian_spectrum.api_schemas.methods import ExactResult, LanczosResult
from hessian_spectrum.client.errors import ServerUnreachableError
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.progress import job_progress
from hessian_spectrum.launcher.stack import Stack, StackError

_HOST = "127.0.0.1"


def run_demo(output: Path, stop: threading.Event) -> None:
    """Start a stack in a temporary directory, run the three parts and stop it.

    Args:
        output: Directory of the pictures.
        stop: Ends the demo when set.

    Raises:
        StackError: If the stack does not start, or if `stop` is set.
        SpectrumClientError: If a part fails.
    """
    console = Console()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="spectrum-demo-") as directory:
        with Stack(
            host=_HOST, port=free_port(), data_directory=Path(directory), num_workers=1, log=output / "stack.log"
        ) as stack:
            console.print(f"Starting Redis, worker and service at {stack.url} ...")
            if missing := stack.start(stop, console.print):
                raise StackError("; ".join(missing))
            threading.Thread(target=_supervise, args=(stack, stop, console), daemon=True).start()
            with SpectrumClient(stack.url) as client:
                for part in (_two_layer_network, _digits_classifier, _small_gpt2):
                    if not stop.is_set():
                        part(client, console, output, stop)
            stop.set()
        console.print("Stopped; nothing is left running.")


def _supervise(stack: Stack, stop: threading.Event, console: Console) -> None:
    stack.supervise(stop, console.print)


def _two_layer_network(client: SpectrumClient, console: Console, output: Path, stop: threading.Event) -> None:
    generator = np.random.default_rng(0)
    width, num_samples = 1000, 200
    x = generator.standard_normal(num_samples)
    request = {
        "model": {
            "kind": "relu",
            "w": (generator.standard_normal(width) / np.sqrt(width)).tolist(),
            "v": generator.standard_normal(width).tolist(),
        },
        "data": {"x": x.tolist(), "y": np.maximum(x, 0.5 * x).tolist()},
    }
    spectrum = client.closed_form(request)
    console.rule("a. Closed form: two-layer ReLU network of width 1,000")
    console.print(_closed_form_table(spectrum))
    console.print(f"All {spectrum.num_parameters:,} eigenvalues by {spectrum.source}; at once, no matrix was built.\n")


def _closed_form_table(spectrum: ClosedFormSpectrum) -> Table:
    table = Table("eigenvalue", "multiplicity", "role", "cell")
    for eigenvalue in spectrum.eigenvalues:
        table.add_row(
            f"{eigenvalue.value: .12g}", str(eigenvalue.multiplicity), eigenvalue.role, eigenvalue.group or ""
        )
    return table


def _digits_classifier(client: SpectrumClient, console: Console, output: Path, stop: threading.Event) -> None:
    problem: dict[str, Any] = {
        "kind": "spectrum",
        "model": {"kind": "mlp", "widths": [64, 16, 10], "activation": "tanh"},
        "data": {"kind": "digits", "num_samples": 512},
        "loss": "cross-entropy",
        "train": {"num_steps": 300, "learning_rate": 0.5, "batch_size": 64},
        "precision": "float64",
    }
    console.rule("b. Digits classifier: Lanczos against the exact spectrum of the same model")
    exact = _run(client, console, problem | {"method": {"kind": "exact"}}, stop, picture=output / "digits-exact.png")
    method = {"kind": "lanczos", "num_steps": 120, "num_probes": 8}
    lanczos = _run(client, console, problem | {"method": method}, stop, picture=output / "digits-density.png")
    if not isinstance(exact, ExactResult) or not isinstance(lanczos, LanczosResult):
        raise TypeError("the server returned a result of another kind")
    console.print(_comparison_table(exact, lanczos))
    console.print(f"{exact.num_parameters:,} parameters at a training loss of {exact.loss:.3g}.\n")


def _comparison_table(exact: ExactResult, lanczos: LanczosResult) -> Table:
    table = Table("", "exact", "Lanczos", "error bar", "difference")
    for end, value in (("largest", exact.eigenvalues[-1]), ("smallest", exact.eigenvalues[0])):
        ritz = lanczos.largest if end == "largest" else lanczos.smallest
        table.add_row(
            end,
            f"{value:.8g}",
            f"{ritz.value:.8g}",
            f"{ritz.residual:.1e}",
            f"{ritz.value - value:+.1e}",
        )
    trace = lanczos.trace
    table.add_row(
        "trace",
        f"{exact.trace.value:.6g}",
        f"{trace.value:.6g}",
        f"{trace.standard_error or 0:.2g}",
        f"{trace.value - exact.trace.value:+.2g}",
    )
    integral = np.trapezoid(lanczos.density.values, lanczos.density.grid)
    table.add_row("integral", "1", f"{integral:.6f}", "", f"{integral - 1:+.1e}")
    return table


def _small_gpt2(client: SpectrumClient, console: Console, output: Path, stop: threading.Event) -> None:
    request = {
        "kind": "spectrum",
        "model": {
            "kind": "gpt2",
            "n_layer": 2,
            "n_head": 4,
            "n_embd": 64,
            "n_positions": 64,
            "vocab_size": 256,
            "attention_sink": {"bias": 4.0},
        },
        "data": {"kind": "text", "name": "pydoc-topics", "num_sequences": 16, "sequence_length": 64},
        "loss": "cross-entropy",
        "train": {"num_steps": 60, "learning_rate": 0.5, "batch_size": 4},
        "method": {"kind": "lanczos", "num_steps": 60, "num_probes": 3},
    }
    console.rule("c. Small GPT-2 with an attention sink on Python's language reference")
    result = _run(client, console, request, stop, picture=output / "gpt2-density.png")
    if not isinstance(result, LanczosResult) or result.training is None:
        raise TypeError("the server returned a result of another kind")
    console.print(
        f"{result.num_parameters:,} parameters, loss {result.training.initial_loss:.3f} -> {result.loss:.3f}; "
        f"eigenvalues from {estimated(result.smallest)} to {estimated(result.largest)}, "
        f"trace {estimated(result.trace)} "
        f"({result.provenance.num_products} products in {result.provenance.precision} "
        f"on {result.provenance.device}, {result.provenance.wall_time_seconds:.1f} s).\n"
    )


def _run(
    client: SpectrumClient, console: Console, request: dict[str, Any], stop: threading.Event, *, picture: Path
) -> AnyJobResult:
    job_id = client.submit(request).id
    with job_progress(console, request["method"]["kind"]) as progress:
        wait_until_ended(client, job_id, stop, on_change=progress.show)
    result = client.result(job_id)
    picture.write_bytes(client.result_file(job_id, "png"))
    console.print(f"Picture: {picture}")
    return result


def wait_until_ended(
    client: SpectrumClient, job_id: str, stop: threading.Event, *, on_change: Callable[[Job], None]
) -> None:
    """Wait for the end of a job.

    Args:
        client: A client of the stack, whose processes may be away for a time.
        job_id: Id of the job.
        stop: Set by a signal, after which the stack is stopped.
        on_change: Receives the job's record about once a second.

    Raises:
        StackError: If `stop` is set.
    """
    while not stop.is_set():
        with contextlib.suppress(ServerUnreachableError):
            if client.wait(job_id, timeout_seconds=1, on_change=on_change).state in ENDED_STATES:
                return
    raise StackError("stopped by a signal")


def free_port() -> int:
    """Return a port of this machine that nobody uses at present."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port
