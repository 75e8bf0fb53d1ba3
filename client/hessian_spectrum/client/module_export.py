"""Export of PyTorch modules as programs that the server reads, compared with the modules before they are sent."""

import io
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hessian_spectrum.api_schemas.data.uploaded import TARGETS
from hessian_spectrum.client.errors import SpectrumClientError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

GRADIENT_TOLERANCES = {"float64": 1e-9, "float32": 1e-5}
"""Largest deviation of outputs and gradients of a program from those of its module, relative to the largest entry."""


class ModuleExportError(SpectrumClientError):
    """A module cannot be sent to the server; the message says why, and what to change."""


def module_program(
    module: "nn.Module", example_inputs: "Tensor | Sequence[Tensor]", *, with_parameters: bool = True
) -> bytes:
    """Export a module as a .pt2 file, after comparing outputs and gradients of the program with those of the module.

    A forward pass that computes derivatives itself, such as that of a physics-informed network, is traced before it is
    exported. The number of samples may vary, unless the forward pass fixes it.

    Args:
        module: The module, in eval mode if it has dropout or batch norm. It returns one array (n, ...).
        example_inputs: Its arguments for at least two samples along their first axis: tensors, or arrays of numpy.
        with_parameters: Whether the file holds the values of the parameters. With zeros in their place, the file is the
            same at all steps of a training run.

    Returns:
        The content of the file.

    Raises:
        ModuleExportError: If the module cannot be exported, or the program differs from it.
    """
    import torch  # noqa: PLC0415 - the client can be installed without torch

    # the caller may have switched gradients off, which the comparison needs
    with torch.inference_mode(False), torch.enable_grad():
        inputs = _as_tensors(example_inputs, module)
        _check_inputs(inputs)
        _check_finite(module)
        _check_mode(module)
        _check_buffers(module, inputs)
        program = _exported(module, inputs)
        _check_names(program)
        _check_equal(module, program, inputs)
        _warn_if_fixed(program, inputs)
        if not with_parameters:
            _fill_with_zeros(program)
        file = io.BytesIO()
        torch.export.save(program, file)
    return file.getvalue()


def _fill_with_zeros(program: "ExportedProgram") -> None:
    """Replace the parameters by zeros; those that are tied stay so."""
    import torch  # noqa: PLC0415

    zeros: dict[int, Tensor] = {}
    for name in program.graph_signature.parameters:
        known = program.state_dict[name]
        if id(known) not in zeros:
            zeros[id(known)] = torch.nn.Parameter(torch.zeros_like(known), requires_grad=known.requires_grad)
        program.state_dict[name] = zeros[id(known)]


def module_parameters(module: "nn.Module | Mapping[str, Tensor]") -> bytes:
    """Return the parameters of a module, or parameters by name, as a safetensors file.

    Args:
        module: The module, or a dictionary of its parameters; tied ones count once, under their first name.

    Returns:
        The content of the file.
    """
    from safetensors.torch import save  # noqa: PLC0415

    named = module.items() if isinstance(module, Mapping) else module.named_parameters()
    return save({name: parameter.detach().cpu().contiguous() for name, parameter in named})


def _as_tensors(example_inputs: Any, module: "nn.Module") -> "tuple[Tensor, ...]":
    """Return the inputs as a tuple of tensors; real numbers of numpy get the type of the module's parameters."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    if isinstance(example_inputs, Mapping):
        raise ModuleExportError(
            "example_inputs is a dictionary: give a tuple of tensors, in the order of the arguments of forward"
        )
    is_one = isinstance(example_inputs, (torch.Tensor, np.ndarray)) or not isinstance(example_inputs, Sequence)
    real = next((each.dtype for each in module.parameters() if each.is_floating_point()), torch.float32)
    inputs = []
    for index, each in enumerate((example_inputs,) if is_one else example_inputs):
        if isinstance(each, np.ndarray) and each.dtype.kind in "biuf":
            tensor = torch.from_numpy(np.array(each))
            inputs.append(tensor.to(real) if tensor.is_floating_point() else tensor)
        elif isinstance(each, torch.Tensor):
            inputs.append(each.clone() if each.is_inference() else each)
        else:
            where = "example_inputs" if is_one else f"entry {index} of example_inputs"
            raise ModuleExportError(
                f"{where} is of type {type(each).__name__}: give a tensor, or a tuple of tensors for several arguments"
            )
    return tuple(inputs)


def _check_finite(module: "nn.Module") -> None:
    for name, parameter in module.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ModuleExportError(f"the parameter {name} holds NaN or infinity: the weights must be finite")
    for name, buffer in module.named_buffers():
        if bool(buffer.isnan().any()):
            raise ModuleExportError(f"the buffer {name} holds NaN")


def _check_names(program: "ExportedProgram") -> None:
    names = program.graph_signature.user_inputs
    if len(names) > 1 and TARGETS in names:
        raise ModuleExportError(
            f"forward has several arguments, one of them named {TARGETS}, which is the name of the targets in data: "
            "rename the argument"
        )


def _check_inputs(inputs: "tuple[Tensor, ...]") -> None:
    if not inputs or any(each.ndim == 0 for each in inputs):
        raise ModuleExportError("each example input must be an array whose first axis is that of the samples")
    if len({len(each) for each in inputs}) > 1:
        raise ModuleExportError("the example inputs must have the same number of samples")
    if len(inputs[0]) < 2:
        raise ModuleExportError("give at least two samples: from one, torch.export makes a program for one sample only")


def _check_mode(module: "nn.Module") -> None:
    for name, part in module.named_modules():
        if part.training and (what := _differs_in_training(part)):
            raise ModuleExportError(
                f"{name or 'the module'} is {what} in training mode, so the loss would depend on more than parameters "
                "and samples: call module.eval() first"
            )


def _differs_in_training(part: "nn.Module") -> str | None:
    from torch.nn.modules.batchnorm import _BatchNorm  # noqa: PLC0415
    from torch.nn.modules.dropout import _DropoutNd  # noqa: PLC0415

    if isinstance(part, _BatchNorm):
        return "batch norm"
    if isinstance(part, _DropoutNd):
        return "dropout" if part.p > 0 else None
    probability = getattr(part, "dropout", 0.0)
    return "dropout" if isinstance(probability, float) and probability > 0 else None


def _check_buffers(module: "nn.Module", inputs: "tuple[Tensor, ...]") -> None:
    before = {name: buffer._version for name, buffer in module.named_buffers()}
    module(*inputs)
    changed = [name for name, buffer in module.named_buffers() if buffer._version != before.get(name)]
    if changed:
        raise ModuleExportError(
            f"the forward pass changes the buffer {changed[0]}, so the loss would depend on more than parameters and "
            "samples: export a module that does not change its buffers"
        )


def _exported(module: "nn.Module", inputs: "tuple[Tensor, ...]") -> "ExportedProgram":
    try:
        return _export(module, inputs)
    except Exception as error:  # noqa: BLE001 - export fails with errors of many classes
        try:
            return _export(_traced(module, inputs), inputs)
        except Exception:  # noqa: BLE001 - the first reason is the one to read
            raise ModuleExportError(f"torch.export cannot export the module: {_reason(error)}") from error


def _export(module: "nn.Module", inputs: "tuple[Tensor, ...]") -> "ExportedProgram":
    import torch  # noqa: PLC0415
    from torch.backends import opt_einsum  # noqa: PLC0415
    from torch.export import Dim  # noqa: PLC0415

    shapes: Any = tuple({0: Dim.AUTO} for _ in inputs)
    # einsum's search for the best order of contraction would fix the number of samples to that of the example
    with warnings.catch_warnings(), _quiet_logs(), opt_einsum.flags(enabled=False):
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(module, inputs, dynamic_shapes=shapes)
        except Exception as error:
            if "dynamic_shapes" not in str(error):
                raise
            # forward(*args) takes its arguments as one
            return torch.export.export(module, inputs, dynamic_shapes=(shapes,))


def _quiet_logs() -> Any:
    """Keep torch from printing a page of graph for each failure; the reason is in the error."""
    import contextlib  # noqa: PLC0415
    import logging  # noqa: PLC0415

    @contextlib.contextmanager
    def quiet() -> Iterator[None]:
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
        finally:
            logging.disable(before)

    return quiet()


def _traced(module: "nn.Module", inputs: "tuple[Tensor, ...]") -> "nn.Module":
    """Return the module with the derivatives in its forward pass written out as operators.

    In PyTorch 2.13, formulas of derivatives read saved results through `detach`, which would drop second derivatives:
    all `detach` nodes are removed. If the module detaches a value on purpose, the comparison of gradients finds that
    this is lost.
    """
    import torch  # noqa: PLC0415
    from torch._decomp import decomposition_table  # noqa: PLC0415
    from torch.func import functional_call  # noqa: PLC0415
    from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415

    from hessian_spectrum.client.exact_norms import ExactNorms  # noqa: PLC0415

    values = {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def run(named: dict[str, Any], *arguments: Any) -> Any:
        with ExactNorms():
            return functional_call(module, named, arguments)

    written_out: Any = {op: function for op, function in decomposition_table.items() if "backward" in str(op)}
    graph = make_fx(run, decomposition_table=written_out, tracing_mode="symbolic")(values, *inputs)
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    return _with_names(values, graph)


def _with_names(values: "Mapping[str, Tensor]", function: Callable[..., Any]) -> "nn.Module":
    """Return a module that holds parameters and buffers under the same names and passes them to a function."""
    from torch import nn  # noqa: PLC0415

    class Root(nn.Module):
        def forward(self, *arguments: Any) -> Any:
            return function({name: _at(self, name) for name in values}, *arguments)

    root = Root()
    for name, value in values.items():
        *path, last = name.split(".")
        owner: nn.Module = root
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        if isinstance(value, nn.Parameter):
            owner.register_parameter(last, value)
        else:
            owner.register_buffer(last, value)
    return root


def _at(root: Any, name: str) -> Any:
    for part in name.split("."):
        root = getattr(root, part)
    return root


def _reason(error: Exception) -> str:
    """Return one line for an error, with the line of the module that caused it, instead of torch's page of graph."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    if "data-dependent" in first:
        first = "control flow depends on a value of a tensor (data-dependent control flow): write it with torch.where"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]
    return f"{first[:300]} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else first[:300]


def _is_library(filename: str) -> bool:
    import torch  # noqa: PLC0415

    return filename == __file__ or Path(filename).is_relative_to(Path(torch.__file__).parent)


def _check_equal(module: "nn.Module", program: "ExportedProgram", inputs: "tuple[Tensor, ...]") -> None:
    """Compare output and gradient on the example: export drops hooks and the derivatives of custom functions."""
    import torch  # noqa: PLC0415

    from hessian_spectrum.client.exact_norms import ExactNorms  # noqa: PLC0415

    with ExactNorms():
        expected, expected_gradient = _value_and_gradient(module, inputs)
    value, gradient = _value_and_gradient(program.module(), inputs)
    if not bool(expected.isfinite().all()):
        raise ModuleExportError("the module returns NaN or infinity on the example: give other example inputs")
    tolerance = GRADIENT_TOLERANCES.get(str(expected.dtype).removeprefix("torch."), 1e-2)
    if value.shape != expected.shape or not _is_close(value, expected, tolerance):
        raise ModuleExportError(
            "the outputs of the exported program differ from the module's: does the forward pass draw random numbers, "
            "or depend on something other than parameters and inputs?"
        )
    scale = max((float(each.abs().max()) for each in expected_gradient.values() if each.numel()), default=0.0)
    for name in gradient.keys() - expected_gradient.keys():  # what the module detaches
        expected_gradient[name] = torch.zeros_like(gradient[name])
    for name, one in expected_gradient.items():
        if not bool(one.isfinite().all()):
            raise ModuleExportError(
                f"the gradient of the module's output with respect to {name} is NaN or infinite on the example: give "
                "other example inputs"
            )
        other = gradient.get(name, torch.zeros_like(one))
        if not bool((one - other).abs().max() <= tolerance * scale):
            raise ModuleExportError(
                f"the gradient of the exported program with respect to {name} differs from the module's: export drops "
                "hooks and the backward passes of custom autograd functions; write them with ordinary operations and "
                "detach"
            )


def _value_and_gradient(module: Any, inputs: "tuple[Tensor, ...]") -> "tuple[Tensor, dict[str, Tensor]]":
    """Return the output, and the gradient of its sum with fixed weights in every parameter."""
    import torch  # noqa: PLC0415

    output = module(*inputs)
    if not isinstance(output, torch.Tensor):
        raise ModuleExportError(
            f"the module returns {type(output).__name__}; it must return one array: wrap it in a module that returns, "
            "for example, its logits"
        )
    weights = torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype, device=output.device).view(output.shape)
    named = {name: each for name, each in module.named_parameters() if each.requires_grad}
    if not output.requires_grad:
        raise ModuleExportError("the output depends on no parameter that requires gradients")
    parts = torch.autograd.grad((output * weights).sum(), list(named.values()), allow_unused=True)
    return output.detach(), {name: part for name, part in zip(named, parts, strict=True) if part is not None}


def _is_close(value: "Tensor", expected: "Tensor", tolerance: float) -> bool:
    scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
    return bool((value - expected).abs().max() <= tolerance * scale) if expected.numel() else True


def _warn_if_fixed(program: "ExportedProgram", inputs: "tuple[Tensor, ...]") -> None:
    import torch  # noqa: PLC0415
    from torch.fx.experimental.symbolic_shapes import is_concrete_int  # noqa: PLC0415

    names = set(program.graph_signature.user_inputs)
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    for node in placeholders:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and is_concrete_int(value.shape[0]):
            warnings.warn(
                f"the forward pass fixes the number of samples to {value.shape[0]}, for example by len(x), so the "
                "number of samples in data must be a multiple of it. Use x.shape[0] to allow any number.",
                stacklevel=4,
            )
            return
