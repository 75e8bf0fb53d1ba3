"""Products of matrices and attention."""

import re
from string import ascii_letters

from hessian_spectrum.service.uploads.onnx.lengths import Dimension, Length, broadcast
from hessian_spectrum.service.uploads.onnx.lowering import Lowering
from hessian_spectrum.service.uploads.onnx.node import Node, Operand, UnsupportedError
from hessian_spectrum.service.uploads.onnx.operators.registry import lowers
from hessian_spectrum.service.uploads.onnx.operators.shapes import permuted, reshaped

_EQUATION = re.compile(r"[A-Za-z,.]{0,256}(->[A-Za-z.]{0,64})?", re.ASCII)


def matrix_product(program: Lowering, one: Operand, other: Operand) -> Operand:
    """Return the product over the last axis of one and the last but one of the other; leading axes are broadcast."""
    if min(one.rank, other.rank) < 1:
        raise UnsupportedError("a factor has no axes")
    inner = other.shape[-2] if other.rank > 1 else other.shape[0]
    if one.shape[-1] != inner:
        raise UnsupportedError("the lengths of its inner axes differ")
    rows = one.shape[-2:-1] if one.rank > 1 else ()
    columns = other.shape[-1:] if other.rank > 1 else ()
    shape = (*broadcast(one.shape[:-2], other.shape[:-2]), *rows, *columns)
    return program.emit("matmul.default", one, other, shape=shape, dtype=one.dtype)


@lowers("MatMul")
def matmul(node: Node, program: Lowering) -> list[Operand]:
    """Product of matrices."""
    return [matrix_product(program, node.operand(0), node.operand(1))]


@lowers("Gemm")
def gemm(node: Node, program: Lowering) -> list[Operand]:
    """Alpha A B + beta C, where A and B may be transposed."""
    one, other, added = node.operand(0), node.operand(1), node.optional(2)
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    if one.rank != 2 or other.rank != 2:
        raise UnsupportedError("its factors are not matrices")
    one = permuted(program, one, [1, 0]) if node.truth("transA") else one
    is_transposed = node.truth("transB")
    inner, columns = other.shape[::-1] if is_transposed else other.shape
    if one.shape[1] != inner:
        raise UnsupportedError("the lengths of its inner axes differ")
    shape = (one.shape[0], columns)
    if is_transposed and alpha == beta == 1 and (added is None or added.shape == (columns,)):
        return [program.emit("linear.default", one, other, added, shape=shape, dtype=one.dtype)]
    other = permuted(program, other, [1, 0]) if is_transposed else other
    if alpha == beta == 1 and added is not None and added.shape == (columns,):
        return [program.emit("addmm.default", added, one, other, shape=shape, dtype=one.dtype)]
    result = matrix_product(program, one, other)
    result = program.like("mul.Tensor", result, alpha) if alpha != 1 else result
    if added is None:
        return [result]
    if broadcast(added.shape, shape) != shape:
        raise UnsupportedError("its third input does not match the product")
    added = program.like("mul.Tensor", added, beta) if beta != 1 else added
    return [program.like("add.Tensor", result, added)]


@lowers("Einsum")
def einsum(node: Node, program: Lowering) -> list[Operand]:
    """Sum of products over the letters that the result does not have."""
    operands, equation = node.operands(), node.text("equation", "").replace(" ", "")
    if not _EQUATION.fullmatch(equation):
        raise UnsupportedError(f"its equation {equation:.64} is not supported")
    terms, result = _written_out(equation, operands)
    lengths: dict[str, Dimension] = {}
    for term, operand in zip(terms, operands, strict=True):
        for letter, length in zip(term, operand.shape, strict=True):
            if lengths.setdefault(letter, length) not in (length, 1) and length != 1:
                raise UnsupportedError("its equation does not match its inputs")
            lengths[letter] = length if lengths[letter] == 1 else lengths[letter]
    if not set(result) <= lengths.keys():
        raise UnsupportedError("its equation does not match its inputs")
    shape = tuple(lengths[letter] for letter in result)
    written = f"{','.join(terms)}->{result}"
    return [program.emit("einsum.default", written, operands, shape=shape, dtype=operands[0].dtype)]


def _written_out(equation: str, operands: list[Operand]) -> tuple[list[str], str]:
    """Return the letters of each operand and of the result, with letters for the axes that an ellipsis stands for."""
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands) or any(each.count(".") not in (0, 3) for each in (*terms, result)):
        raise UnsupportedError("its equation does not match its inputs")
    spare = [letter for letter in ascii_letters if letter not in equation]
    counts = [operand.rank - len(term.replace("...", "")) for term, operand in zip(terms, operands, strict=True)]
    largest = max(count if "..." in term else 0 for term, count in zip(terms, counts, strict=True))
    if not 0 <= largest <= len(spare) or any(
        count < 0 or (count > 0 and "..." not in term) for term, count in zip(terms, counts, strict=True)
    ):
        raise UnsupportedError("its equation does not match its inputs")
    hidden = "".join(spare[:largest])
    written = [
        term.replace("...", hidden[largest - count :] if count else "")
        for term, count in zip(terms, counts, strict=True)
    ]
    if arrow:
        return written, result.replace("...", hidden)
    every = "".join(written)
    once = sorted(letter for letter in set(every) - set(hidden) if every.count(letter) == 1)
    return written, hidden + "".join(once)


@lowers("Attention")
def attention(node: Node, program: Lowering) -> list[Operand]:
    """Softmax(scale Q K^T + mask) V, for heads along an axis of their own or side by side in the last one."""
    if any(operand is not None for operand in node.inputs[4:]):
        raise UnsupportedError("it reads keys and values of earlier calls, which is not supported")
    node.refuse("softcap", 0.0)
    node.refuse("qk_matmul_output_mode", 0)
    node.ignore("softmax_precision")
    heads = node.integer("q_num_heads", 0)
    groups = node.integer("kv_num_heads", heads)
    counts = (heads, groups, groups)
    query, key, value = (_by_head(program, node.operand(index), count) for index, count in enumerate(counts))
    is_causal, mask = node.truth("is_causal"), node.optional(3)
    if is_causal and mask is not None:
        raise UnsupportedError("it is causal and also has a mask: combine both in one mask")
    shape = (*query.shape[:-1], value.shape[-1])
    scale = node.real("scale", 0.0) or None
    if isinstance(query.shape[1], Length) or isinstance(key.shape[1], Length) or query.shape[1] % key.shape[1]:
        raise UnsupportedError("its numbers of heads do not match")
    result = program.emit(
        "scaled_dot_product_attention.default",
        *(query, key, value, mask, 0.0, is_causal),
        shape=shape,
        dtype=query.dtype,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    if node.operand(0).rank == 4:
        return [result]
    count, _, length, width = shape
    side_by_side = permuted(program, result, [0, 2, 1, 3])
    return [reshaped(program, side_by_side, (count, length, heads * width))]


def _by_head(program: Lowering, operand: Operand, heads: int) -> Operand:
    if operand.rank == 4:
        return operand
    if operand.rank != 3 or heads < 1:
        raise UnsupportedError("its inputs have no heads: specify q_num_heads and kv_num_heads")
    count, length, width = operand.shape
    return permuted(program, reshaped(program, operand, (count, length, heads, width // heads)), [0, 2, 1, 3])
