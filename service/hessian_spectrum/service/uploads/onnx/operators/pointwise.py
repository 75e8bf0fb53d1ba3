"""Operators that compute entry by entry: arithmetic, comparisons, activations and casts."""

from functools import reduce
from typing import Any

from hessian_spectrum.service.uploads.onnx.lengths import broadcast
from hessian_spectrum.service.uploads.onnx.lowering import Lowering
from hessian_spectrum.service.uploads.onnx.node import Node, Operand, UnsupportedError
from hessian_spectrum.service.uploads.onnx.operators.registry import LOWERED, lowers
from hessian_spectrum.service.uploads.onnx.tensors import dtype_of, is_floating

_SAME_TYPE = {
    "Abs": "abs.default",
    "Acos": "acos.default",
    "Acosh": "acosh.default",
    "Asin": "asin.default",
    "Asinh": "asinh.default",
    "Atan": "atan.default",
    "Atanh": "atanh.default",
    "BitwiseNot": "bitwise_not.default",
    "Ceil": "ceil.default",
    "Cos": "cos.default",
    "Cosh": "cosh.default",
    "Erf": "erf.default",
    "Exp": "exp.default",
    "Floor": "floor.default",
    "HardSwish": "hardswish.default",
    "Log": "log.default",
    "Mish": "mish.default",
    "Neg": "neg.default",
    "Not": "logical_not.default",
    "Reciprocal": "reciprocal.default",
    "Relu": "relu.default",
    "Round": "round.default",
    "Sigmoid": "sigmoid.default",
    "Sign": "sign.default",
    "Sin": "sin.default",
    "Sinh": "sinh.default",
    "Softplus": "softplus.default",
    "Sqrt": "sqrt.default",
    "Tan": "tan.default",
    "Tanh": "tanh.default",
}

_BINARY = {
    "Add": "add.Tensor",
    "Sub": "sub.Tensor",
    "Mul": "mul.Tensor",
    "And": "logical_and.default",
    "Or": "logical_or.default",
    "Xor": "logical_xor.default",
    "BitwiseAnd": "bitwise_and.Tensor",
    "BitwiseOr": "bitwise_or.Tensor",
    "BitwiseXor": "bitwise_xor.Tensor",
}

_COMPARISONS = {
    "Equal": "eq",
    "Less": "lt",
    "LessOrEqual": "le",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
}

_TAKES_NUMBERS = frozenset({"Add", "Sub", "Mul", "Div"})
"""Operators whose second operand may be a number instead of an array."""


def _unary(node: Node, program: Lowering) -> list[Operand]:
    return [program.like(_SAME_TYPE[node.op], node.operand(0))]


LOWERED.update(dict.fromkeys(_SAME_TYPE, _unary))


def second(node: Node, program: Lowering) -> Any:
    """Return the second operand as a number where it is a known one."""
    number = program.literal(node.operand(1))
    return node.operand(1) if number is None or isinstance(number, bool) else number


@lowers(*_BINARY)
def binary(node: Node, program: Lowering) -> list[Operand]:
    """Combine two arrays."""
    one, other = node.operand(0), node.operand(1)
    shape = broadcast(one.shape, other.shape)
    argument = second(node, program) if node.op in _TAKES_NUMBERS else other
    return [program.emit(_BINARY[node.op], one, argument, shape=shape, dtype=one.dtype)]


@lowers(*_COMPARISONS)
def comparison(node: Node, program: Lowering) -> list[Operand]:
    """Compare two arrays."""
    one, other = node.operand(0), node.operand(1)
    number = program.literal(other)
    shape = broadcast(one.shape, other.shape)
    name = _COMPARISONS[node.op]
    if number is None or isinstance(number, bool):
        return [program.emit(f"{name}.Tensor", one, other, shape=shape, dtype="bool")]
    return [program.emit(f"{name}.Scalar", one, number, shape=shape, dtype="bool")]


@lowers("Div")
def divide(node: Node, program: Lowering) -> list[Operand]:
    """Divide; whole numbers are rounded towards 0."""
    one, other = node.operand(0), node.operand(1)
    shape = broadcast(one.shape, other.shape)
    if one.is_real:
        return [program.emit("div.Tensor", one, second(node, program), shape=shape, dtype=one.dtype)]
    return [program.emit("div.Tensor_mode", one, other, shape=shape, dtype=one.dtype, rounding_mode="trunc")]


@lowers("Mod")
def remainder(node: Node, program: Lowering) -> list[Operand]:
    """Remainder with the sign of the divisor, or with that of the dividend where fmod is 1."""
    one, other = node.operand(0), node.operand(1)
    op = "fmod.Tensor" if node.truth("fmod") else "remainder.Tensor"
    return [program.emit(op, one, other, shape=broadcast(one.shape, other.shape), dtype=one.dtype)]


@lowers("Pow")
def power(node: Node, program: Lowering) -> list[Operand]:
    """Power; a known exponent is a number, as derivatives by exponents take logarithms of the base."""
    base, exponent = node.operand(0), node.operand(1)
    shape = broadcast(base.shape, exponent.shape)
    if exponent.entries is not None and exponent.entries.size == 1 and exponent.is_foldable:
        number = exponent.entries.item()
        result = program.emit("pow.Tensor_Scalar", base, number, shape=base.shape, dtype=base.dtype)
        if shape != base.shape:
            result = program.emit("expand.default", result, shape, shape=shape, dtype=base.dtype)
        return [result]
    return [program.emit("pow.Tensor_Tensor", base, exponent, shape=shape, dtype=base.dtype)]


@lowers("Max", "Min", "Sum", "Mean")
def several(node: Node, program: Lowering) -> list[Operand]:
    """Combine any number of arrays entry by entry."""
    op = {"Max": "maximum.default", "Min": "minimum.default"}.get(node.op, "add.Tensor")

    def combined(one: Operand, other: Operand) -> Operand:
        return program.emit(op, one, other, shape=broadcast(one.shape, other.shape), dtype=one.dtype)

    operands = node.operands()
    total = reduce(combined, operands)
    return [program.like("div.Tensor", total, len(operands)) if node.op == "Mean" else total]


@lowers("Where")
def where(node: Node, program: Lowering) -> list[Operand]:
    """Choose between two arrays."""
    condition, one, other = (node.operand(index) for index in range(3))
    shape = broadcast(condition.shape, one.shape, other.shape)
    return [program.emit("where.self", condition, one, other, shape=shape, dtype=one.dtype)]


@lowers("IsNaN", "IsInf")
def classified(node: Node, program: Lowering) -> list[Operand]:
    """Tell which entries are NaN or infinite."""
    node.refuse("detect_negative", 1)
    node.refuse("detect_positive", 1)
    operand = node.operand(0)
    op = "isnan.default" if node.op == "IsNaN" else "isinf.default"
    return [program.emit(op, operand, shape=operand.shape, dtype="bool")]


@lowers("Clip")
def clip(node: Node, program: Lowering) -> list[Operand]:
    """Limit entries to an interval."""
    operand, limits = node.operand(0), [node.optional(1), node.optional(2)]
    numbers = [None if limit is None else program.literal(limit) for limit in limits]
    if all(limit is None or number is not None for limit, number in zip(limits, numbers, strict=True)):
        return [program.like("clamp.default", operand, *numbers) if any(limits) else operand]
    shape = broadcast(operand.shape, *(limit.shape for limit in limits if limit is not None))
    return [program.emit("clamp.Tensor", operand, *limits, shape=shape, dtype=operand.dtype)]


@lowers("Elu", "Selu", "Celu")
def exponential_unit(node: Node, program: Lowering) -> list[Operand]:
    """Gamma x for positive x and gamma alpha (exp x - 1) for negative x; celu divides x in the exponent by alpha."""
    if node.op == "Celu":
        return [program.like("celu.default", node.operand(0), node.real("alpha", 1.0))]
    alpha = node.real("alpha", 1.0 if node.op == "Elu" else 1.6732632423543772)
    gamma = node.real("gamma", 1.0507009873554805) if node.op == "Selu" else 1.0
    return [program.like("elu.default", node.operand(0), alpha, gamma)]


@lowers("Gelu")
def gelu(node: Node, program: Lowering) -> list[Operand]:
    """X times the normal distribution function, or its approximation by tanh."""
    approximation = node.text("approximate", "none")
    if approximation not in ("none", "tanh"):
        raise UnsupportedError(f"its approximation {approximation:.32} is not supported")
    return [program.like("gelu.default", node.operand(0), approximate=approximation)]


@lowers("LeakyRelu")
def leaky_relu(node: Node, program: Lowering) -> list[Operand]:
    """X for positive x, alpha x for negative x."""
    return [program.like("leaky_relu.default", node.operand(0), node.real("alpha", 0.01))]


@lowers("PRelu")
def parametric_relu(node: Node, program: Lowering) -> list[Operand]:
    """X for positive x, slope times x for negative x, where the slope is an array that fits x."""
    operand, slope = node.operand(0), node.operand(1)
    if broadcast(operand.shape, slope.shape) != operand.shape:
        raise UnsupportedError("its slopes do not match its input")
    is_positive = program.emit("gt.Scalar", operand, 0, shape=operand.shape, dtype="bool")
    scaled = program.like("mul.Tensor", operand, slope)
    return [program.emit("where.self", is_positive, operand, scaled, shape=operand.shape, dtype=operand.dtype)]


@lowers("HardSigmoid")
def hard_sigmoid(node: Node, program: Lowering) -> list[Operand]:
    """Alpha x + beta, limited to the interval from 0 to 1."""
    scaled = program.like("mul.Tensor", node.operand(0), node.real("alpha", 0.2))
    shifted = program.like("add.Tensor", scaled, node.real("beta", 0.5))
    return [program.like("clamp.default", shifted, 0.0, 1.0)]


@lowers("ThresholdedRelu")
def thresholded_relu(node: Node, program: Lowering) -> list[Operand]:
    """X where it exceeds alpha, and 0 elsewhere."""
    operand = node.operand(0)
    is_above = program.emit("gt.Scalar", operand, node.real("alpha", 1.0), shape=operand.shape, dtype="bool")
    zeros = program.like("zeros_like.default", operand)
    return [program.emit("where.self", is_above, operand, zeros, shape=operand.shape, dtype=operand.dtype)]


@lowers("Shrink")
def shrink(node: Node, program: Lowering) -> list[Operand]:
    """X + bias below -lambd, x - bias above lambd, and 0 between."""
    operand, bias, limit = node.operand(0), node.real("bias", 0.0), node.real("lambd", 0.5)
    result = program.like("zeros_like.default", operand)
    for op, bound, shift in (("lt.Scalar", -limit, bias), ("gt.Scalar", limit, -bias)):
        is_beyond = program.emit(op, operand, bound, shape=operand.shape, dtype="bool")
        shifted = program.like("add.Tensor", operand, shift)
        result = program.emit("where.self", is_beyond, shifted, result, shape=operand.shape, dtype=operand.dtype)
    return [result]


@lowers("Softsign")
def softsign(node: Node, program: Lowering) -> list[Operand]:
    """X / (1 + |x|)."""
    operand = node.operand(0)
    size = program.like("add.Tensor", program.like("abs.default", operand), 1.0)
    return [program.like("div.Tensor", operand, size)]


@lowers("Swish")
def swish(node: Node, program: Lowering) -> list[Operand]:
    """X times the sigmoid of alpha x."""
    operand = node.operand(0)
    gate = program.like("sigmoid.default", program.like("mul.Tensor", operand, node.real("alpha", 1.0)))
    return [program.like("mul.Tensor", operand, gate)]


@lowers("Cast", "CastLike")
def cast(node: Node, program: Lowering) -> list[Operand]:
    """Change the type; all real numbers have the precision of the job."""
    node.ignore("saturate", "round_mode")
    operand = node.operand(0)
    dtype = dtype_of(node.integer("to", 0)) if node.op == "Cast" else node.operand(1).dtype
    if dtype == operand.dtype or (operand.is_real and is_floating(dtype)):
        return [operand]
    return [program.emit("_to_copy.default", operand, shape=operand.shape, dtype=dtype, cast=dtype)]


@lowers("Identity")
def identity(node: Node, program: Lowering) -> list[Operand]:
    """The array itself."""
    return [node.operand(0)]


@lowers("Dropout")
def dropout(node: Node, program: Lowering) -> list[Operand]:
    """The array itself, unless the node is in training mode."""
    node.ignore("seed")
    node.ignore_inputs(1)
    is_training = node.optional(2)
    if is_training is not None and (is_training.entries is None or any(is_training.entries.flat)):
        raise UnsupportedError("it is in training mode: export the network for inference")
    return [node.operand(0)]
