"""Only the worker loads torch: asked of the interpreter itself, so that no indirect import escapes."""

import subprocess
import sys

LIGHT_MODULES = [
    "hessian_spectrum.service.__main__",
    "hessian_spectrum.service.app",
    "hessian_spectrum.launcher.main",
    "hessian_spectrum.client.main",
    "hessian_spectrum.client.tracking.start",
    "hessian_spectrum.theory.closed_form.attention",
    "hessian_spectrum.theory.closed_form.homogeneous",
    "hessian_spectrum.theory.closed_form.quadratic",
    "hessian_spectrum.theory.random_matrix.sampling",
    "hessian_spectrum.api_schemas.jobs",
    "hessian_spectrum.api_schemas.spectrum",
    "hessian_spectrum.planning.job_plan",
    "hessian_spectrum.planning.work",
    "hessian_spectrum.quadrature.curves",
    "hessian_spectrum.service.serialization.resmooth",
    "hessian_spectrum.jobs.store",
    "hessian_spectrum.checkpoints.directory",
]


SCRIPT = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    if loaded := {"torch", "sklearn", "transformers"} & set(sys.modules):
        sys.exit(f"{module} loads {loaded}")
"""


def test_modules_load_without_torch() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, *LIGHT_MODULES], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr


def test_worker_does_load_torch() -> None:
    """The check above can fail."""
    command = [sys.executable, "-c", SCRIPT, "hessian_spectrum.worker.runtime.app"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "hessian_spectrum.worker.runtime.app loads" in finished.stderr
