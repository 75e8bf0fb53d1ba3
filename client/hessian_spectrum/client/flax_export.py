"""Modules of Flax as ONNX files that the server reads: exported by jax2onnx, named, and compared with the module."""

import itertools
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.client.module_export import ModuleExportError

Array = NDArray[Any]

MAX_DEVIATION = {"output": 1e-4, "gradient": 2e-2}
"""Largest relative deviation of a file's outputs from the module's, and of a slope by differences of these outputs."""

_STEP = 1e-2
_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"


def flax_program(module: Any, example_inputs: Any) -> bytes:
    """Export a module of Flax NNX as an ONNX file whose parameters have the names of the module.

    jax2onnx writes arrays without names, and equal ones once. The module is therefore exported with other, random
    numbers, by which each parameter is found in the file, and the file then gets those of the module.

    Args:
        module: A `flax.nnx.Module` in eval mode that returns one array (n, ...).
        example_inputs: Its input, or a tuple of its inputs, for at least two samples, which are the first axis.

    Returns:
        The content of the file.

    Raises:
        ModuleExportError: If the module cannot be exported, or the file differs from it; the message says why.
    """
    try:
        import jax2onnx  # noqa: F401, PLC0415
        from flax import nnx  # noqa: PLC0415
    except ImportError as error:
        raise ModuleExportError(f"{error}: pip install 'hessian-spectrum-client[jax]'") from error
    inputs = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    if any(each.ndim == 0 or len(each) < 2 for each in inputs):
        raise ModuleExportError("each example input must be an array of at least two samples along its first axis")
    graph, parameters, rest = nnx.split(module, nnx.Param, ...)
    network = _Network(graph, parameters, rest, inputs)
    model = _to_onnx(network.with_values(network.random_values()), inputs)
    places = _places(model, network.random_values())
    _fill(model, places, network.values)
    _check_equal(model, network, places)
    _mark(model, places)
    content: bytes = model.SerializeToString()
    return content


@dataclass(frozen=True, eq=False)
class _Network:
    """A module taken apart: its structure, its parameters, and all else."""

    graph: Any
    parameters: Any
    rest: Any
    inputs: tuple[Any, ...]

    @property
    def values(self) -> dict[str, Array]:
        """Parameters by the names that they have in the module."""
        from flax import nnx  # noqa: PLC0415

        return {".".join(map(str, path)): np.asarray(each[...]) for path, each in nnx.to_flat_state(self.parameters)}

    def random_values(self) -> dict[str, Array]:
        generator = np.random.default_rng(0)
        return {name: generator.normal(size=each.shape).astype(each.dtype) for name, each in self.values.items()}

    def with_values(self, values: Mapping[str, Any]) -> Any:
        """The module with other parameters."""
        import jax.numpy as jnp  # noqa: PLC0415
        from flax import nnx  # noqa: PLC0415

        paths = [path for path, _ in nnx.to_flat_state(self.parameters)]
        states = [nnx.Param(jnp.asarray(each)) for each in values.values()]
        state = nnx.from_flat_state(list(zip(paths, states, strict=True)))
        return nnx.merge(self.graph, state, self.rest)

    def weighted_sum(self, values: Mapping[str, Any]) -> Any:
        """The sum of the outputs with fixed weights, as a function of the parameters."""
        output = self.with_values(values)(*self.inputs)
        return (output.reshape(-1) * _weights(output.size)).sum()


def _weights(size: int) -> Array:
    return np.linspace(0.5, 1.5, size, dtype=np.float32)


def _to_onnx(module: Any, inputs: tuple[Any, ...]) -> Any:
    import jax  # noqa: PLC0415
    from jax2onnx import to_onnx  # noqa: PLC0415

    (batch,) = jax.export.symbolic_shape("B")
    shapes = [jax.ShapeDtypeStruct((batch, *each.shape[1:]), each.dtype) for each in inputs]
    try:
        return to_onnx(module, shapes)
    except Exception as error:  # it fails with errors of many classes
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModuleExportError(f"jax2onnx cannot export the module: {lines[0][:300]}") from error


def _places(model: Any, values: Mapping[str, Array]) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Find each parameter among the arrays of a file: the array, and the order of axes in which it is there."""
    from onnx import numpy_helper  # noqa: PLC0415

    arrays = [(each, numpy_helper.to_array(each)) for each in model.graph.initializer]
    found = {}
    for name, value in values.items():
        matches = [(each, axes) for each, array in arrays for axes in _orders(value, array)]
        if len(matches) != 1:
            raise ModuleExportError(
                f"the parameter {name} is not in the file as one array: jax2onnx has computed with it, or the output "
                "does not depend on it"
            )
        (found[name],) = matches
    return found


def _orders(value: Array, array: Array) -> Iterator[tuple[int, ...]]:
    if value.size != array.size:
        return
    for axes in itertools.permutations(range(value.ndim)):
        if np.array_equal(value.transpose(axes).reshape(array.shape), array):
            yield axes
            return


def _fill(model: Any, places: Mapping[str, tuple[Any, tuple[int, ...]]], values: Mapping[str, Array]) -> None:
    """Give arrays the numbers and the names of their parameters."""
    from onnx import numpy_helper  # noqa: PLC0415

    names = {}
    for name, (array, axes) in places.items():
        names[array.name] = name
        numbers = values[name].transpose(axes).reshape(tuple(array.dims))
        array.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numbers), name))
    for node in model.graph.node:
        node.input[:] = [names.get(each, each) for each in node.input]


def _mark(model: Any, names: Container[str]) -> None:
    """Say which arrays are parameters, in the way of PyTorch's exporter."""
    from onnx import helper  # noqa: PLC0415

    del model.graph.value_info[:]
    for each in model.graph.initializer:
        described = helper.make_tensor_value_info(each.name, each.data_type, list(each.dims))
        entry = described.metadata_props.add()
        entry.key, entry.value = _KIND, "PARAMETER" if each.name in names else "CONSTANT_TENSOR"
        model.graph.value_info.append(described)


def _check_equal(model: Any, network: _Network, places: Mapping[str, tuple[Any, tuple[int, ...]]]) -> None:
    """Compare outputs, and the slope along a random direction: a file has no derivatives of a module's own."""
    import jax  # noqa: PLC0415

    values = network.values
    outputs = np.asarray(network.with_values(values)(*network.inputs))
    run = _run(model, network.inputs)
    if run.shape != outputs.shape or np.abs(run - outputs).max() > MAX_DEVIATION["output"] * np.abs(outputs).max():
        raise ModuleExportError("the file gives other outputs than the module: is it in eval mode?")
    gradient = jax.grad(network.weighted_sum)(values)
    noise = 1e-2 * max(float(np.linalg.norm(each)) for each in gradient.values())  # differences are not exact
    generator = np.random.default_rng(1)
    for name, value in values.items():
        direction = generator.normal(size=value.shape).astype(value.dtype)
        slopes = []
        for sign in (1, -1):
            _fill(model, places, {**values, name: value + sign * _STEP * direction})
            slopes.append(float((_run(model, network.inputs).reshape(-1) * _weights(outputs.size)).sum()))
        _fill(model, places, values)
        slope = (slopes[0] - slopes[1]) / (2 * _STEP)
        exact = float((np.asarray(gradient[name]) * direction).sum())
        scale = float(np.linalg.norm(gradient[name]) + abs(slope)) + noise
        if abs(slope - exact) > MAX_DEVIATION["gradient"] * scale:
            raise ModuleExportError(
                f"the file has another gradient than the module, of {name}: ONNX has neither stop_gradient nor "
                "derivatives of a function's own; write them with ordinary operations"
            )


def _run(model: Any, inputs: tuple[Any, ...]) -> Array:
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    names = [each.name for each in model.graph.input]
    outputs: Any = ReferenceEvaluator(model).run(None, dict(zip(names, map(np.asarray, inputs), strict=False)))
    return np.asarray(outputs[0])
