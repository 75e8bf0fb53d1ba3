"""Networks of JAX over HTTP: uploaded by the client under the names of their parameters. Needs the extra `jax`."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_spectrum.client.http import SpectrumClient
from hessian_spectrum.client.jax_export import jax_program
from hessian_spectrum.client.module_export import ModuleExportError

FLAX = Path(__file__).parents[1] / "fixtures" / "flax"


def test_without_jax_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ModuleExportError, match=r"pip install \./api_schemas '\./client\[jax\]'"):
        jax_program(object(), np.zeros((2, 3)))


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

    with pytest.raises(ModuleExportError, match="gradient of the file with respect to layer"):
        jax_program(Stopped(), jax.numpy.ones((3, 3)))


@pytest.mark.filterwarnings("ignore")
def test_a_function_of_a_tree_and_later_parameters(client: SpectrumClient) -> None:
    networks()
    import jax
    import jax.numpy as jnp

    def network(parameters: Any, images: Any) -> Any:
        axes = jax.lax.conv_dimension_numbers(images.shape, (3, 3, 3, 3), ("NHWC", "HWIO", "NHWC"))
        hidden = jax.lax.conv_general_dilated(images, parameters["conv"][0], (1, 1), "SAME", dimension_numbers=axes)
        hidden = jnp.tanh(hidden + parameters["conv"][1])
        return hidden.mean(axis=(1, 2)) @ parameters["head"]["kernel"]

    def parameters(seed: int) -> Any:
        generator = np.random.default_rng(seed)
        shapes = {"conv": [(3, 3, 3, 3), (3,)], "head": {"kernel": (3, 2)}}
        return jax.tree.map(
            lambda shape: jnp.asarray(generator.normal(size=shape), jnp.float32), shapes,
            is_leaf=lambda each: isinstance(each, tuple),
        )  # fmt: skip

    x = np.random.default_rng(2).normal(size=(6, 4, 4, 3)).astype(np.float32)
    y = np.random.default_rng(3).normal(size=(6, 2))
    model, data = client.upload_module(network, jnp.asarray(x), parameters(0)), client.upload_data(x, y)
    found = client.artifact(model["program"]["id"]).parameters
    assert {each.name: list(each.shape) for each in found if each.trainable} == {
        "conv.0": [3, 3, 3, 3], "conv.1": [3], "head.kernel": [3, 2],
    }  # fmt: skip
    later = {**model, "parameters": client.upload_parameters(parameters(1))}
    for model_of_seed, seed in ((model, 0), (later, 1)):
        request = {"kind": "spectrum", "model": model_of_seed, "data": data, "loss": "mse"}
        values = np.array(client.run(request | {"method": {"kind": "exact"}}).eigenvalues)
        with jax.enable_x64(True):
            double = jax.tree.map(lambda each: jnp.asarray(np.asarray(each), jnp.float64), parameters(seed))
            flat, unravel = jax.flatten_util.ravel_pytree(double)
            hessian = jax.hessian(
                lambda vector: ((network(unravel(vector), jnp.asarray(x, jnp.float64)) - y) ** 2).sum() / 2 / len(x)  # noqa: B023
            )(flat)
        exact = np.linalg.eigvalsh(np.asarray(hessian))
        assert np.abs(values - exact).max() < 1e-9 * np.abs(exact).max()
