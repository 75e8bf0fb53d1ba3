"""Cost of a program: the numbers that its forward pass produces, by sort, counted from the shapes of its values."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hessian_spectrum.planning.size import SORTS, Sort
from hessian_spectrum.programs.batch_norms import norms_of_convolutions
from hessian_spectrum.programs.operators import NO_GRAD, base_name
from hessian_spectrum.programs.program import FLOATING_DTYPES, Call, Program, Value


def _names(text: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in text.split())


_VIEWS = _names("""
_reshape_alias _unsafe_view adjoint alias as_strided atleast_1d atleast_2d atleast_3d broadcast_tensors broadcast_to
chunk conj detach diagonal dropout dsplit expand expand_as flatten hsplit imag lift_fresh linalg_diagonal mH mT moveaxis
movedim narrow numpy_T permute positive ravel real reshape reshape_as resolve_conj resolve_neg select slice split
split_with_sizes squeeze swapaxes swapdims t tensor_split to transpose type_as unbind unflatten unsafe_chunk
unsafe_split unsafe_split_with_sizes unsqueeze view view_as view_as_complex view_as_real vsplit
""")
"""Operators whose results mostly share the memory of their arguments."""

_MATRIX_PRODUCTS = _names("""
addbmm addmm addmv addr baddbmm bilinear bmm dot einsum inner kron linalg_matmul linalg_multi_dot linalg_vecdot linear
matmul mm mv outer tensordot vdot
""")

_CONVOLUTIONS = _names("""
conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d _convolution convolution
""")

_GELU = "aten.gelu"
"""Its derivatives have terms that those of other smooth functions lack; they count as one more operation."""

_GATED = _names("glu mish silu")
"""Operators that multiply two functions of their argument; derivatives of both factors count as one more product."""

_PRODUCTS = _names("mul multiply div divide true_divide addcmul addcdiv")

_PIECEWISE = _names("""
_prelu_kernel abs absolute amax amin ceil clamp clamp_max clamp_min clip floor fmax fmin hardshrink hardsigmoid
hardswish hardtanh leaky_relu max maximum min minimum nan_to_num prelu relu relu6 round rrelu sign softshrink threshold
trunc where masked_fill
""")

_SUMS = _names("""
_adaptive_avg_pool2d _adaptive_avg_pool3d add sub subtract rsub neg negative lerp mean nanmean sum nansum sum_to_size
diff trace avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d cumsum
""")

_NORMS = _names("""
group_norm native_group_norm instance_norm layer_norm native_layer_norm rms_norm cosine_similarity linalg_vector_norm
norm std var var_mean std_mean
""")

_BATCH_NORMS = _names("batch_norm _native_batch_norm_legit_no_training native_batch_norm")

_SOFTMAX = _names("softmax _softmax log_softmax _log_softmax _safe_softmax logsumexp")

_COPIES = _names("""
_to_copy _unsafe_index _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d block_diag cat channel_shuffle clone column_stack concat
concatenate constant_pad_nd contiguous copy diag diag_embed diagonal_scatter dstack embedding flip fliplr flipud gather
hstack im2col col2im index index_add index_copy index_fill index_put index_select kthvalue lift_fresh_copy
masked_scatter masked_select max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
max_pool3d_with_indices max_unpool2d median msort native_channel_shuffle pad pixel_shuffle pixel_unshuffle
reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d
replication_pad3d roll rot90 scatter scatter_add select_scatter slice_scatter sort stack take take_along_dim tile topk
tril triu unfold unfold_copy upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d upsample_nearest3d upsample_trilinear3d vstack
""")

_GATES = {"aten.lstm": 4, "aten.gru": 3, "aten.rnn_tanh": 1, "aten.rnn_relu": 1}
_CELLS = {"aten.lstm_cell": 4, "aten.gru_cell": 3, "aten.rnn_tanh_cell": 1, "aten.rnn_relu_cell": 1}

_PAIR_COPIES = 2
"""Factor by which numbers of pairs of samples count: a similarity and its softmax took 1.7 times as much memory as the
same sorts of numbers of independent samples, to which the coefficients were fitted."""

_ATTENTION = "aten.scaled_dot_product_attention"


@dataclass
class _Counter:
    """Counts a graph: values that depend on parameters are numbers of a forward pass, others are constants."""

    program: Program

    def __post_init__(self) -> None:
        self.counts: dict[Sort, int] = dict.fromkeys(SORTS, 0)
        self.pair_counts: dict[Sort, int] = dict.fromkeys(SORTS, 0)
        self.of_samples = set(self.program.inputs)
        self.of_parameters = {alias for each in self.program.parameters for alias in each.aliases}
        self.values = {
            **self.program.values,
            **self.program.inputs,
            **{alias: each.value for each in self.program.parameters for alias in each.aliases},
        }
        self.counts["inputs"] = sum(value.size for value in self.program.inputs.values())
        self.results = _names_of_results(self.program)

    def count(self) -> None:
        """Count the numbers on the example inputs."""
        trainable = [each.name for each in self.program.parameters if each.is_trainable]
        folded = {id(each.norm) for each in norms_of_convolutions(self.program, trainable).values()}
        for call in self.program.calls():
            self._add(call, is_counted=id(call) not in folded)
        self.counts["outputs"] = self.program.output_value.size

    def _add(self, call: Call, *, is_counted: bool) -> None:
        read = list(call.names_read())
        if call.op == NO_GRAD:
            return  # its results are constants
        if any(name in self.of_samples for name in read):
            self.of_samples.update(name for name in call.outputs if name)
        if not any(name in self.of_parameters for name in read):
            return
        self.of_parameters.update(name for name in call.outputs if name)
        if not is_counted:
            return
        is_of_pairs = any(len(self.values[name].dynamic) > 1 for name in call.outputs if name in self.values)
        counts = self.pair_counts if is_of_pairs else self.counts
        for sort, number in self._numbers(call, read):
            counts[sort] += number

    def _numbers(self, call: Call, read: list[str]) -> Iterator[tuple[Sort, int]]:
        name = base_name(call.op).removesuffix("_")  # of what writes into its argument
        outputs = sum(_real_numbers(self.values[each]) for each in call.outputs if each in self.values)
        arguments = [self.values[each] for each in read if each in self.values]
        if name in _VIEWS:
            return
        if name in _GATES:
            yield "recurrent", _recurrent_numbers(arguments, _GATES[name])
        elif name in _CELLS:
            yield "recurrent", _CELLS[name] * outputs
        elif name == _ATTENTION:
            pairs = _num_scores(arguments)
            yield "softmax", pairs
            yield "products", pairs + outputs
        elif name in _GATED:
            yield "smooth", outputs
            yield "products", 2 * outputs
        elif name == _GELU:
            yield "smooth", outputs
            yield "piecewise", outputs
        else:
            is_result = not self.results.isdisjoint(call.outputs)
            # an output that repeats the entries of a result is larger than it
            yield self._sort(name, read), max(0, outputs - (self.program.output_value.size if is_result else 0))

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


def _real_numbers(value: Value) -> int:
    """Return how many numbers there are with derivatives: two for each complex one."""
    if value.dtype.startswith("complex"):
        return 2 * value.size
    return value.size if value.dtype in FLOATING_DTYPES else 0


def _names_of_results(program: Program) -> set[str | None]:
    """Return the name of the output, and of each value that it is a view of."""
    makers = {name: call for call in program.body for name in call.outputs}
    names: set[str | None] = {program.output}
    call = makers.get(program.output)
    while call is not None and base_name(call.op) in _VIEWS:
        viewed = next(iter(call.names_read()), None)
        names.add(viewed)
        call = makers.get(viewed)
    return names


def _num_scores(arguments: list[Value]) -> int:
    """Return the number of pairs of a query and a key; 0 where the call lacks one of them."""
    shapes = [each.shape for each in arguments[:2]]
    if len(shapes) < 2 or min(map(len, shapes)) < 2:
        return 0
    query, key = shapes
    return math.prod(query[:-1]) * key[-2]


def _recurrent_numbers(arguments: list[Value], num_gates: int) -> int:
    """Gates of all steps, layers and directions: from the weights (num_gates * hidden, ...) of each."""
    sequence, weights = arguments[0], [each for each in arguments if len(each.shape) == 2]
    num_steps = math.prod(sequence.shape[:2])
    # two matrices for each layer and direction, that of the input and that of the state
    return num_steps * sum(each.shape[0] for each in weights if each.shape[0] % num_gates == 0) // 2


@dataclass(frozen=True)
class ProgramCost:
    """Numbers that a forward pass of a program produces.

    Attributes:
        numbers_per_sample: For each sample, by the sort of the operator, rounded up.
        numbers_per_pair: An upper estimate for each pair of samples, from the values that have two axes of samples.
        mixes_samples: Whether the output of a sample depends on other samples, judging by shapes: some value that is
            computed from samples has two axes of samples, or none.
    """

    numbers_per_sample: dict[Sort, int]
    numbers_per_pair: dict[Sort, int]
    mixes_samples: bool


def program_cost(program: Program) -> ProgramCost:
    """Count the numbers of a forward pass.

    Batch norms that are folded into convolutions, views, and values that depend on no parameter are not counted.
    Values that do not depend on the number of samples count once for each batch of the example's size;
    results of the whole network count as outputs alone.

    Args:
        program: The graph.

    Returns:
        The numbers of each sort.
    """
    counter, size = _Counter(program), program.example_size
    counter.count()
    return ProgramCost(
        {sort: -(-number // size) for sort, number in counter.counts.items()},
        {sort: -(-_PAIR_COPIES * number // size**2) for sort, number in counter.pair_counts.items() if number},
        program.fixed_size is None and _mixes_samples(program),
    )


def _mixes_samples(program: Program) -> bool:
    """Return whether the output depends on a value computed from samples that has no axis of samples, or several."""
    of_samples, mixed = set(program.inputs), set[str]()
    for call in program.body:
        read = set(call.names_read())
        if read.isdisjoint(of_samples):
            continue
        for name in filter(None, call.outputs):
            of_samples.add(name)
            value = program.values.get(name)
            if not read.isdisjoint(mixed) or (value is not None and len(value.dynamic) != 1):
                mixed.add(name)
    return program.output in mixed
