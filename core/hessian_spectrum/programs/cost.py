"""Cost of a program: the numbers that its forward pass produces, by sort, counted from the shapes of its values."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hessian_spectrum.planning.size import SORTS, Sort
from hessian_spectrum.programs.operators import NO_GRAD, base_name
from hessian_spectrum.programs.program import Call, Program, Value


def _names(text: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in text.split())


_VIEWS = _names("""
alias as_strided chunk detach diagonal dropout expand expand_as flatten movedim narrow permute reshape select slice
split split_with_sizes squeeze t to transpose unbind unflatten unsqueeze view view_as
""")
"""Operators whose results mostly share the memory of their arguments."""

_MATRIX_PRODUCTS = _names("""
addbmm addmm addmv addr baddbmm bilinear bmm dot einsum inner kron linalg_matmul linalg_multi_dot linalg_vecdot linear
matmul mm mv outer tensordot vdot
""")

_CONVOLUTIONS = _names("""
conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d _convolution convolution
""")

_GATED = _names("glu mish mish_ silu silu_")
"""Operators that multiply two functions of their argument; derivatives of both factors count as one more product."""

_PRODUCTS = _names("mul mul_ multiply multiply_ div div_ divide divide_ true_divide addcmul addcmul_ addcdiv addcdiv_")

_PIECEWISE = _names("""
abs clamp clamp_ clamp_max clamp_min clip hardshrink hardsigmoid hardswish hardtanh leaky_relu leaky_relu_ maximum
minimum prelu relu relu6 relu6_ relu_ rrelu softshrink threshold where masked_fill masked_fill_
""")

_SUMS = _names("""
add add_ sub sub_ subtract rsub neg lerp mean sum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
adaptive_avg_pool2d adaptive_avg_pool3d cumsum
""")

_NORMS = _names("""
group_norm native_group_norm instance_norm layer_norm native_layer_norm rms_norm cosine_similarity linalg_vector_norm
norm std var var_mean std_mean
""")

_BATCH_NORMS = _names("batch_norm _native_batch_norm_legit_no_training native_batch_norm")

_SOFTMAX = _names("softmax _softmax log_softmax _log_softmax _safe_softmax logsumexp")

_COPIES = _names("""
cat clone contiguous constant_pad_nd copy_ embedding gather im2col col2im index index_add index_put index_select pad
pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d repeat replication_pad1d replication_pad2d roll
scatter_add stack tril triu unfold upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d max_pool1d max_pool2d max_pool2d_with_indices max_pool3d adaptive_max_pool1d adaptive_max_pool2d
""")

_GATES = {"aten.lstm": 4, "aten.gru": 3, "aten.rnn_tanh": 1, "aten.rnn_relu": 1}
_CELLS = {"aten.lstm_cell": 4, "aten.gru_cell": 3, "aten.rnn_tanh_cell": 1, "aten.rnn_relu_cell": 1}

_ATTENTION = "aten.scaled_dot_product_attention"


@dataclass
class _Counter:
    """Counts a graph: values that depend on parameters are numbers of a forward pass, others are constants."""

    program: Program

    def __post_init__(self) -> None:
        self.counts: dict[Sort, int] = dict.fromkeys(SORTS, 0)
        self.of_samples = set(self.program.inputs)
        self.of_parameters = {alias for each in self.program.parameters for alias in each.aliases}
        self.values = {
            **self.program.values,
            **self.program.inputs,
            **{alias: each.value for each in self.program.parameters for alias in each.aliases},
        }
        self.counts["inputs"] = sum(value.size for value in self.program.inputs.values())
        self.results = _names_of_results(self.program)

    def count(self) -> dict[Sort, int]:
        """Return the numbers on the example inputs."""
        for call in self.program.calls():
            self._add(call)
        outputs = self.program.output_value.size
        self.counts["outputs"] = outputs
        return self.counts

    def _add(self, call: Call) -> None:
        read = list(call.names_read())
        if call.op == NO_GRAD:
            return  # its results are constants
        if any(name in self.of_samples for name in read):
            self.of_samples.update(name for name in call.outputs if name)
        if not any(name in self.of_parameters for name in read):
            return
        self.of_parameters.update(name for name in call.outputs if name)
        for sort, number in self._numbers(call, read):
            self.counts[sort] += number

    def _numbers(self, call: Call, read: list[str]) -> Iterator[tuple[Sort, int]]:
        name = base_name(call.op)
        outputs = sum(self.values[each].size for each in call.outputs if each in self.values)
        arguments = [self.values[each] for each in read if each in self.values]
        if name in _VIEWS:
            return
        if name in _GATES:
            yield "recurrent", _recurrent_numbers(arguments, _GATES[name])
        elif name in _CELLS:
            yield "recurrent", _CELLS[name] * outputs
        elif name == _ATTENTION:
            query, key = arguments[:2]
            pairs = query.size // query.shape[-1] * key.shape[-2]
            yield "softmax", pairs
            yield "products", pairs + outputs
        elif name in _GATED:
            yield "smooth", outputs
            yield "products", 2 * outputs
        else:
            is_result = not self.results.isdisjoint(call.outputs)
            yield self._sort(name, read), outputs - (self.program.output_value.size if is_result else 0)

    def _sort(self, name: str, read: list[str]) -> Sort:
        if name in _MATRIX_PRODUCTS:
            num_of_samples = sum(each in self.of_samples for each in read)
            return "products" if num_of_samples > 1 else "linear"
        for names, sort in _BY_NAME:
            if name in names:
                return sort
        return "smooth"


_BY_NAME: tuple[tuple[frozenset[str], Sort], ...] = (
    (_PRODUCTS, "products"),
    (_PIECEWISE, "piecewise"),
    (_SUMS, "sums"),
    (_CONVOLUTIONS, "convolutions"),
    (_BATCH_NORMS, "batch-norms"),
    (_NORMS, "norms"),
    (_SOFTMAX, "softmax"),
    (_COPIES, "copies"),
)


def _names_of_results(program: Program) -> set[str | None]:
    """Return the name of the output, and of each value of which it is a view."""
    makers = {name: call for call in program.body for name in call.outputs}
    names: set[str | None] = {program.output}
    call = makers.get(program.output)
    while call is not None and base_name(call.op) in _VIEWS:
        viewed = next(iter(call.names_read()), None)
        names.add(viewed)
        call = makers.get(viewed)
    return names


def _recurrent_numbers(arguments: list[Value], num_gates: int) -> int:
    """Gates of all steps, layers and directions: from the weights (num_gates * hidden, ...) of each."""
    sequence, weights = arguments[0], [each for each in arguments if len(each.shape) == 2]
    num_steps = math.prod(sequence.shape[:2])
    # two matrices for each layer and direction, that of the input and that of the state
    return num_steps * sum(each.shape[0] for each in weights if each.shape[0] % num_gates == 0) // 2


def numbers_per_sample(program: Program) -> dict[Sort, int]:
    """Numbers that a forward pass produces for each sample, by the sort of the operator, rounded up.

    Values that do not depend on the number of samples are counted once for each batch of the example's size. Views,
    and what depends on no parameter, are not counted; results of the whole network are counted as outputs alone.

    Args:
        program: The graph.

    Returns:
        The number of each sort.
    """
    counts = _Counter(program).count()
    return {sort: -(-number // program.example_size) for sort, number in counts.items()}
