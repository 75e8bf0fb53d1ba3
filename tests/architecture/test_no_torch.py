"""Only the worker loads torch: asked of the interpreter itself, so that no indirect import escapes."""

import subprocess
import sys

import pytest

LIGHT_MODULES = [
    "service.__main__",
    "service.app",
    "launcher.main",
    "client.main",
    "theory.closed_form.attention",
    "theory.closed_form.homogeneous",
    "theory.closed_form.quadratic",
    "theory.random_matrix.sampling",
    "api_schemas.jobs",
    "api_schemas.spectrum",
    "curvature.cost.memory",
    "curvature.cost.seconds",
    "curvature.algorithms.cumulative",
    "service.formats.resmoothing",
    "jobs.store",
    "checkpoints.directory",
]


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_module_loads_without_torch(module: str) -> None:
    script = f"import sys, {module}; print(sorted({{'torch', 'sklearn', 'transformers'}} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_worker_does_load_torch() -> None:
    """The check above can fail."""
    script = "import sys, worker.app; print('torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "True"
