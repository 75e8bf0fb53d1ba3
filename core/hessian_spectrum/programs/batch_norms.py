"""Batch norms after convolutions, as part of the convolution's weight and bias."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from hessian_spectrum.programs.operators import base_name
from hessian_spectrum.programs.program import Argument, Call, Program, Value

_OPERANDS = ("input", "weight", "bias")

_NORMALISED = (*_OPERANDS, "running_mean", "running_var")

_PLAIN = (*_OPERANDS, "stride", "padding", "dilation", "groups")

_CONVOLUTIONS = {
    **dict.fromkeys(("aten.conv1d", "aten.conv2d", "aten.conv3d"), _PLAIN),
    **dict.fromkeys(
        ("aten.convolution", "aten._convolution"), (*_PLAIN[:-1], "transposed", "output_padding", "groups")
    ),
}

_NORMS = {
    "aten.batch_norm": (*_NORMALISED, "training", "momentum", "eps", "cudnn_enabled"),
    "aten.native_batch_norm": (*_NORMALISED, "training", "momentum", "eps"),
    "aten._native_batch_norm_legit_no_training": (*_NORMALISED, "momentum", "eps"),
}

_ARGUMENTS = {**_CONVOLUTIONS, **_NORMS}
"""Arguments of each operator, in order, as far as they are read here."""


@dataclass(frozen=True)
class NormOfConvolution:
    """A batch norm with stored statistics, of the output of a convolution that nothing else reads.

        w (W * x + c - m) / sqrt(v + epsilon) + b  =  (s W) * x + s (c - m) + b,    s = w / sqrt(v + epsilon)

    with the convolution's weight W and bias c, the norm's weight w and bias b, the stored mean m and variance v.

    Attributes:
        convolution: The call of the convolution.
        norm: The call of the batch norm.
        num_axes: Number of axes of W.
    """

    convolution: Call
    norm: Call
    num_axes: int

    def folded(self) -> Iterator[Call]:
        """Yield the calls on the right of the equation; names of intermediate results contain a space."""
        norm, convolution = _arguments(self.norm), _arguments(self.convolution)
        output, made = self.norm.outputs[0], _Calls(f"{self.norm.outputs[0]} folded", self.convolution.module)
        scale = made("rsqrt.default", made("add.Scalar", norm["running_var"], norm["eps"]))
        if norm.get("weight"):
            scale = made("mul.Tensor", scale, norm["weight"])
        minus_mean = made("neg.default", norm["running_mean"])
        centred = made("add.Tensor", convolution["bias"], minus_mean) if convolution.get("bias") else minus_mean
        shift = made("mul.Tensor", centred, scale)
        if norm.get("bias"):
            shift = made("add.Tensor", shift, norm["bias"])
        column = made("reshape.default", scale, [-1, *[1] * (self.num_axes - 1)])
        weight = made("mul.Tensor", convolution["weight"], column)
        yield from made.calls
        settings = {name: each for name, each in self.convolution.kwargs.items() if name not in _OPERANDS}
        args = (convolution["input"], weight, shift, *self.convolution.args[len(_OPERANDS) :])
        yield replace(self.convolution, args=args, kwargs=settings, outputs=(output,))


class _Calls:
    """New calls, whose results have names that begin with a prefix."""

    def __init__(self, prefix: str, module: str) -> None:
        self.calls: list[Call] = []
        self._prefix, self._module = prefix, module

    def __call__(self, op: str, *args: Argument) -> Argument:
        name = f"{self._prefix} {len(self.calls)}"
        self.calls.append(Call(f"aten.{op}", args, {}, (name,), module=self._module))
        return {"$": name}


def norms_of_convolutions(program: Program, differentiated: Collection[str]) -> dict[str, NormOfConvolution]:
    """Find the batch norms that can be folded, if that saves work.

    It saves none if the convolution's weight is constant: the folded weight would depend on the norm's parameters,
    whose derivatives would then cost as much as those of a weight.

    Args:
        program: The graph.
        differentiated: Names of the parameters that are differentiated.

    Returns:
        The batch norms, by the name of the convolution's output.
    """
    moving = {alias for each in program.parameters if each.name in differentiated for alias in each.aliases}
    stored = {alias: each.value for each in program.parameters for alias in each.aliases}
    stored |= {name: program.values[name] for name in program.constants}
    num_reads = Counter(name for call in program.calls() for name in call.names_read())
    num_reads[program.output] += 1
    convolutions = {
        call.outputs[0]: call for call in program.body if base_name(call.op) in _CONVOLUTIONS and call.outputs
    }
    found: dict[str, NormOfConvolution] = {}
    for norm in program.body:
        name = _name(_arguments(norm).get("input")) if base_name(norm.op) in _NORMS else None
        convolution = convolutions.get(name)
        others = [each for each in norm.outputs[1:] if each is not None and num_reads[each]]
        if name is None or convolution is None or num_reads[name] > 1 or others:
            continue
        kernel = _name(_arguments(convolution).get("weight"))
        if kernel in moving and _fits(convolution, norm, program, stored):
            found[name] = NormOfConvolution(convolution, norm, len(stored[kernel].shape))
    return found


def with_folded_norms(program: Program, differentiated: Collection[str]) -> Program:
    """Return the same function of the same parameters, with fewer passes over the outputs of convolutions.

    Args:
        program: The graph.
        differentiated: Names of the parameters that are differentiated.
    """
    found = norms_of_convolutions(program, differentiated)
    norms = {id(each.norm) for each in found.values()}
    body: list[Call] = []
    for call in program.body:
        norm = next((found[name] for name in call.outputs if name in found), None)
        if norm is not None:
            body += norm.folded()
        elif id(call) not in norms:
            body.append(call)
    return replace(program, body=tuple(body))


def _fits(convolution: Call, norm: Call, program: Program, stored: Mapping[str, Value]) -> bool:
    """Return whether there is a batch of samples, and one stored number of each kind for each channel."""
    settings, operands = _arguments(norm), _arguments(convolution)
    kernel, output = stored[operands["weight"]["$"]], program.values.get(convolution.outputs[0] or "")
    if settings.get("training") or operands.get("transposed") or not norm.outputs or not norm.outputs[0]:
        return False
    if not isinstance(settings.get("eps"), float) or _name(operands.get("input")) is None:
        return False
    if output is None or len(output.shape) != len(kernel.shape):
        return False
    statistics = [_name(settings.get(name)) for name in ("running_mean", "running_var")]
    optional = (settings.get("weight"), settings.get("bias"), operands.get("bias"))
    channels = [*statistics, *(_name(each) for each in optional if each is not None)]
    return all(name is not None and name in stored and stored[name].shape == kernel.shape[:1] for name in channels)


def _arguments(call: Call) -> dict[str, Argument]:
    """Return the arguments by name, of a convolution or a norm."""
    return {**dict(zip(_ARGUMENTS[base_name(call.op)], call.args, strict=False)), **call.kwargs}


def _name(argument: Argument) -> str | None:
    """Return the name of the value that an argument refers to; None for others."""
    return argument.get("$") if isinstance(argument, dict) else None
