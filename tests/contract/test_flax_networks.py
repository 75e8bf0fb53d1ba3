"""Modules of Flax over HTTP: uploaded by the client under the names of their parameters. Needs the extra `jax`."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_spectrum.client.flax_export import flax_program
from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.module_export import ModuleExportError

FLAX = Path(__file__).parents[1] / "fixtures" / "flax"


def test_without_jax_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ModuleExportError, match=r"pip install 'hessian-spectrum-client\[jax\]'"):
        flax_program(object(), np.zeros((2, 3)))


def networks() -> dict[str, Any]:
    pytest.importorskip("jax2onnx")
    pytest.importorskip("flax")
    from tests.fixtures.flax import export

    return {"export": export, **export.NETWORKS}


@pytest.mark.parametrize("name", ["mlp", "cnn", "batch_norm", "layer_norm", "attention", "recurrent"])
@pytest.mark.filterwarnings("ignore")
def test_eigenvalues_are_those_of_jax(client: SpectrumClient, name: str) -> None:
    found = networks()
    import jax.numpy as jnp
    from flax import nnx

    build, shape = found[name]
    module = build(nnx.Rngs(0))
    module.eval()
    x, y = found["export"].samples(name, shape)
    model = client.upload_module(module, jnp.asarray(x, jnp.int32 if name == "attention" else jnp.float32))
    described = client.artifact(model["program"]["id"])
    paths = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(module, nnx.Param))]
    assert {each.name for each in described.parameters if each.trainable} == set(paths)
    request = {"kind": "spectrum", "model": model, "data": client.upload_data(x, y), "loss": "mse"}
    result = client.run(request | {"method": {"kind": "exact"}})
    golden = np.array(json.loads((FLAX / "eigenvalues.json").read_text())[name]["eigenvalues"])
    assert np.abs(np.array(result.eigenvalues) - golden).max() < 1e-9 * np.abs(golden).max()


@pytest.mark.filterwarnings("ignore")
def test_derivatives_that_the_file_would_lose_are_refused() -> None:
    networks()
    import jax
    from flax import nnx

    class Stopped(nnx.Module):
        def __init__(self) -> None:
            self.layer = nnx.Linear(3, 3, rngs=nnx.Rngs(0))

        def __call__(self, x: Any) -> Any:
            hidden = self.layer(x)
            return hidden * jax.lax.stop_gradient(hidden)

    with pytest.raises(ModuleExportError, match="another gradient than the module, of layer"):
        flax_program(Stopped(), jax.numpy.ones((3, 3)))
