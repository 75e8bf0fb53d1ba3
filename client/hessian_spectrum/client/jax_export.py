"""Export of JAX networks as ONNX files that the server reads, with names of parameters, and compared with JAX."""

import itertools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_spectrum.client.module_export import ModuleExportError

Array = NDArray[Any]

MAX_DEVIATION = {"output": 1e-4, "gradient": 2e-2}
"""Largest relative deviation of a file's outputs from the module's, and of slopes, which are differences of outputs."""

_STEP = 1e-2
_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"


def jax_program(module: Any, example_inputs: Any, parameters: Any = None) -> bytes:
    """Export a network of JAX as an ONNX file whose parameters have its names and its order of axes.

    jax2onnx drops the names of parameters, writes equal arrays once, and transposes kernels. The network is therefore
    exported with random numbers, by which each parameter is found in the file. The file is then given the numbers of
    the network, and operations that transpose them.

    Args:
        module: A `flax.nnx.Module` in eval mode, or a function of `parameters` and the inputs; it returns one array
            (n, ...).
        example_inputs: Its input, or a tuple of its inputs, for at least two samples along the first axis.
        parameters: Arrays in a tree of dictionaries, tuples or lists, for a function; None for a module.

    Returns:
        The content of the file.

    Raises:
        ModuleExportError: If the network cannot be exported, or the file differs from it; the message says why.
    """
    try:
        import jax2onnx  # noqa: F401, PLC0415
    except ImportError as error:
        raise ModuleExportError(f"{error}: in the repository, run pip install ./api_schemas './client[jax]'") from error
    inputs = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    if any(each.ndim == 0 or len(each) < 2 for each in inputs):
        raise ModuleExportError("each example input must be an array of at least two samples along its first axis")
    network = _module_network(module) if parameters is None else _function_network(module, parameters)
    random = network.random_values()
    model = _to_onnx(network.function(random), inputs)
    _name_parameters(model, random)
    _mark(model, random)
    _fill(model, network.values)
    _check_equal(model, network, inputs)
    content: bytes = model.SerializeToString()
    return content


def jax_parameters(parameters: Any) -> bytes:
    """Return the parameters of a network of JAX as a safetensors file, under the names of `jax_program`.

    Args:
        parameters: A `flax.nnx.Module`, or a tree of arrays.

    Returns:
        The content of the file.
    """
    from safetensors.numpy import save  # noqa: PLC0415

    network = _module_network(parameters) if is_flax_module(parameters) else _function_network(None, parameters)
    values = {name: np.ascontiguousarray(each) for name, each in network.values.items()}
    return save({name: each if each.dtype.kind == "f" else each.astype(np.float32) for name, each in values.items()})


def is_flax_module(module: Any) -> bool:
    """Return whether a value is a module of Flax NNX."""
    return any(each.__module__.partition(".")[0] == "flax" for each in type(module).__mro__)


@dataclass(frozen=True, eq=False)
class _Network:
    """The parameters of a network by name, and a function that rebuilds the network from other parameters."""

    values: dict[str, Array]
    rebuild: Callable[[Sequence[Any]], Callable[..., Any]]

    def random_values(self) -> dict[str, Array]:
        generator = np.random.default_rng(0)
        return {name: generator.normal(size=each.shape).astype(each.dtype) for name, each in self.values.items()}

    def function(self, values: Mapping[str, Any]) -> Callable[..., Any]:
        """The network with other parameters."""
        import jax.numpy as jnp  # noqa: PLC0415

        return self.rebuild([jnp.asarray(each) for each in values.values()])


def _module_network(module: Any) -> _Network:
    from flax import nnx  # noqa: PLC0415

    graph, parameters, rest = nnx.split(module, nnx.Param, ...)
    flat = nnx.to_flat_state(parameters)
    paths = [path for path, _ in flat]

    def rebuild(values: Sequence[Any]) -> Any:
        state = nnx.from_flat_state(list(zip(paths, map(nnx.Param, values), strict=True)))
        return nnx.merge(graph, state, rest)

    return _Network({".".join(map(str, path)): np.asarray(each[...]) for path, each in flat}, rebuild)


def _function_network(function: Any, parameters: Any) -> _Network:
    import jax  # noqa: PLC0415

    leaves, tree = jax.tree_util.tree_flatten_with_path(parameters)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    values = {name: np.asarray(each) for name, (_, each) in zip(names, leaves, strict=True)}
    if len(values) < len(leaves) or "" in values or any(each.dtype.kind not in "fV" for each in values.values()):
        raise ModuleExportError(
            "parameters must be floating-point arrays in dictionaries, tuples or lists, each with its own name"
        )

    def rebuild(values: Sequence[Any]) -> Any:
        return lambda *inputs: function(tree.unflatten(values), *inputs)

    return _Network(values, rebuild)


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


def _name_parameters(model: Any, values: Mapping[str, Array]) -> None:
    """Give each array that holds the numbers of a parameter the parameter's name and order of axes."""
    from onnx import numpy_helper  # noqa: PLC0415

    arrays = [(each, numpy_helper.to_array(each)) for each in model.graph.initializer]
    nodes: list[Any] = []
    names = {}
    for name, value in values.items():
        matches = [(each, axes) for each, array in arrays for axes in _orders(value, array)]
        if len(matches) != 1:
            raise ModuleExportError(
                f"the parameter {name} is not in the file as one array: jax2onnx has folded it into another array, or "
                "the output does not depend on it"
            )
        ((array, axes),) = matches
        names[array.name] = _with_layout(model, nodes, name=name, axes=axes, shape=value.shape, used=tuple(array.dims))
        array.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))
    for node in model.graph.node:
        node.input[:] = [names.get(each, each) for each in node.input]
    nodes.extend(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _with_layout(
    model: Any, nodes: list[Any], *, name: str, axes: tuple[int, ...], shape: tuple[int, ...], used: tuple[int, ...]
) -> str:
    """Append the operations that give a parameter the axes in which the file uses it; returns the result's name."""
    from onnx import helper, numpy_helper  # noqa: PLC0415

    result = name
    if axes != tuple(range(len(axes))):
        nodes.append(helper.make_node("Transpose", [result], [f"{name}/transposed"], perm=axes))
        result = f"{name}/transposed"
    if tuple(shape[axis] for axis in axes) != used:
        model.graph.initializer.append(numpy_helper.from_array(np.array(used, np.int64), f"{name}/shape"))
        nodes.append(helper.make_node("Reshape", [result, f"{name}/shape"], [f"{name}/reshaped"]))
        result = f"{name}/reshaped"
    return result


def _orders(value: Array, array: Array) -> Iterator[tuple[int, ...]]:
    if value.size != array.size:
        return
    for axes in itertools.permutations(range(value.ndim)):
        if np.array_equal(value.transpose(axes).reshape(array.shape), array):
            yield axes
            return


def _fill(model: Any, values: Mapping[str, Array]) -> None:
    """Write the numbers of parameters into the file."""
    from onnx import numpy_helper  # noqa: PLC0415

    for each in model.graph.initializer:
        if each.name in values:
            each.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[each.name]), each.name))


def _mark(model: Any, names: Container[str]) -> None:
    """Say which arrays are parameters, in the way of PyTorch's exporter."""
    from onnx import helper  # noqa: PLC0415

    del model.graph.value_info[:]
    for each in model.graph.initializer:
        described = helper.make_tensor_value_info(each.name, each.data_type, list(each.dims))
        entry = described.metadata_props.add()
        entry.key, entry.value = _KIND, "PARAMETER" if each.name in names else "CONSTANT_TENSOR"
        model.graph.value_info.append(described)


def _check_equal(model: Any, network: _Network, inputs: tuple[Any, ...]) -> None:
    """Compare outputs, and slopes along random directions: a file does not keep custom derivatives."""
    import jax  # noqa: PLC0415

    def weighted_sum(values: Mapping[str, Any]) -> Any:
        output = network.function(values)(*inputs)
        return (output.reshape(-1) * _weights(output.size)).sum()

    values = network.values
    outputs = np.asarray(network.function(values)(*inputs))
    run = _run(model, inputs)
    if run.shape != outputs.shape or np.abs(run - outputs).max() > MAX_DEVIATION["output"] * np.abs(outputs).max():
        raise ModuleExportError("the outputs of the file differ from the module's: is the module in eval mode?")
    gradient = jax.grad(weighted_sum)(values)
    noise = 1e-2 * max(float(np.linalg.norm(each)) for each in gradient.values())  # differences are not exact
    generator = np.random.default_rng(1)
    for name, value in values.items():
        direction = generator.normal(size=value.shape).astype(value.dtype)
        slopes = []
        for sign in (1, -1):
            _fill(model, {name: value + sign * _STEP * direction})
            slopes.append(float((_run(model, inputs).reshape(-1) * _weights(outputs.size)).sum()))
        _fill(model, {name: value})
        slope = (slopes[0] - slopes[1]) / (2 * _STEP)
        exact = float((np.asarray(gradient[name]) * direction).sum())
        scale = float(np.linalg.norm(gradient[name]) + abs(slope)) + noise
        if abs(slope - exact) > MAX_DEVIATION["gradient"] * scale:
            raise ModuleExportError(
                f"the gradient of the file with respect to {name} differs from the module's: ONNX has neither "
                "stop_gradient nor custom derivatives; write the network with ordinary operations"
            )


def _run(model: Any, inputs: tuple[Any, ...]) -> Array:
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    names = [each.name for each in model.graph.input]
    outputs: Any = ReferenceEvaluator(model).run(None, dict(zip(names, map(np.asarray, inputs), strict=False)))
    return np.asarray(outputs[0])
