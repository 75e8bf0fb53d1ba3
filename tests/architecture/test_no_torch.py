"""Only the worker loads torch: asked of the interpreter itself, so that no indirect import escapes."""

import subprocess
import sys

import pytest

LIGHT_MODULES = [
    "hessian_spectrum.service.__main__",
    "hessian_spectrum.service.app",
    "hessian_spectrum.launcher.main",
    "hessian_spectrum.client.main",
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


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_module_loads_without_torch(module: str) -> None:
    script = f"import sys, {module}; print(sorted({{'torch', 'sklearn', 'transformers'}} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_worker_does_load_torch() -> None:
    """The check above can fail."""
    script = "import sys, hessian_spectrum.worker.runtime.app; print('torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "True"
