"""The operators that a program may call, by name; everything else is refused, with the reason where it is known.

All of them compute arrays from arrays: none reads or writes files, starts processes, draws random numbers or keeps
state. The worker runs them in `curvature.models.program_run`.
"""

from collections.abc import Mapping
from typing import Any

_POINTWISE = """
abs abs_ absolute absolute_ acos acosh add add_ addcdiv addcdiv_ addcmul addcmul_ alias __and__ angle arccos arccosh
arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh bitwise_and bitwise_and_ bitwise_not bitwise_not_
bitwise_or bitwise_or_ bitwise_xor ceil ceil_ celu celu_ clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ clip
clip_ clone complex conj contiguous copy_ copysign cos cos_ cosh deg2rad detach detach_ digamma div div_ divide
divide_ elu elu_ eq erf erf_ erfc erfc_ erfinv exp exp2 exp_ expm1 expm1_ fill_ fix floor floor_ floor_divide fmax
fmin fmod fmod_ frac frac_ ge gelu gelu_ glu greater greater_equal gt hardshrink hardsigmoid hardsigmoid_ hardswish
hardswish_ hardtanh hardtanh_ heaviside hypot i0 __iand__ imag __ior__ isclose isfinite isinf isnan isneginf isposinf
isreal ldexp le leaky_relu leaky_relu_ lerp lerp_ less less_equal lgamma lift_fresh lift_fresh_copy log log10 log1p
log1p_ log2 log_ log_sigmoid log_sigmoid_forward logaddexp logaddexp2 logical_and logical_and_ logical_not
logical_not_ logical_or logical_or_ logical_xor logit logit_ lt masked_fill masked_fill_ maximum minimum mish mish_
mul mul_ multiply multiply_ nan_to_num ne neg neg_ negative negative_ not_equal ones_like __or__ polar polygamma
positive pow pow_ prelu _prelu_kernel rad2deg real reciprocal reciprocal_ relu relu6 relu6_ relu_ remainder remainder_
resolve_conj resolve_neg round round_ rrelu rsqrt rsqrt_ rsub selu selu_ sgn sigmoid sigmoid_ sign sign_ signbit silu
silu_ sin sin_ sinc sinh softplus softshrink special_digamma special_entr special_erf special_erfc special_erfcx
special_erfinv special_exp2 special_expit special_expm1 special_gammaln special_i0 special_i0e special_i1 special_i1e
special_log1p special_log_ndtr special_logit special_ndtr special_psi special_sinc special_xlog1py special_xlogy sqrt
sqrt_ square square_ sub sub_ subtract subtract_ tan tan_ tanh tanh_ threshold threshold_ true_divide true_divide_
trunc trunc_ where xlogy __xor__ zero_ zeros_like
"""

_SHAPES = """
adjoint as_strided atleast_1d atleast_2d atleast_3d broadcast_tensors broadcast_to cat channel_shuffle chunk
column_stack concat concatenate constant_pad_nd diag diag_embed diagonal diagonal_scatter diff dsplit dstack expand
expand_as flatten flip fliplr flipud hsplit hstack mH mT meshgrid moveaxis movedim narrow native_channel_shuffle
numpy_T pad permute pixel_shuffle pixel_unshuffle ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat
repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape _reshape_alias reshape_as roll rot90
select select_scatter slice slice_scatter split split_with_sizes squeeze squeeze_ stack swapaxes swapdims t t_
tensor_split tile to _to_copy transpose transpose_ tril tril_ triu triu_ type_as unbind unflatten unfold unsafe_chunk
unsafe_split _unsafe_view unsqueeze unsqueeze_ view view_as view_as_complex view_as_real vsplit vstack
"""

_REDUCTIONS = """
all amax amin aminmax any argmax argmin argsort bucketize corrcoef count_nonzero cov cummax cummin cumprod cumprod_
cumsum cumsum_ cumulative_trapezoid frobenius_norm isin kthvalue _log_softmax log_softmax logcumsumexp logsumexp max
mean median min mode msort nanmean nanmedian nansum norm nuclear_norm prod quantile _safe_softmax searchsorted
_softmax softmax sort special_log_softmax special_logsumexp special_softmax std std_mean sum sum_to_size topk trace
trapezoid trapz unsafe_split_with_sizes var var_mean
"""

_FACTORIES = """
arange blackman_window empty empty_like empty_strided eye full full_like hamming_window hann_window linspace logspace
new_empty new_full new_ones new_zeros one_hot ones scalar_tensor tril_indices triu_indices zeros
"""

_LINEAR_ALGEBRA = """
addbmm addbmm_ addmm addmm_ addmv addmv_ addr addr_ baddbmm baddbmm_ bilinear block_diag bmm cartesian_prod cdist
_cdist_forward chain_matmul cholesky cholesky_solve cosine_similarity cross det dist dot einsum ger inner inverse kron
linalg_cholesky linalg_cholesky_ex linalg_cond linalg_cross linalg_det linalg_diagonal linalg_eigh linalg_eigvals
linalg_eigvalsh linalg_householder_product linalg_inv linalg_inv_ex linalg_lstsq linalg_lu linalg_lu_factor
linalg_matmul linalg_matrix_exp linalg_matrix_norm linalg_matrix_power linalg_multi_dot linalg_norm linalg_pinv
linalg_qr linalg_slogdet linalg_solve linalg_solve_ex linalg_solve_triangular linalg_svd linalg_svdvals
linalg_tensorinv linalg_tensorsolve linalg_vander linalg_vecdot linalg_vector_norm linear logdet matmul matrix_exp
matrix_power mm mv outer pairwise_distance pdist _pdist_forward qr renorm slogdet svd tensordot triangular_solve vdot
"""

_LAYERS = """
adaptive_avg_pool1d _adaptive_avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool3d
adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d affine_grid_generator alpha_dropout avg_pool1d avg_pool2d
avg_pool3d batch_norm col2im conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d _convolution
convolution dropout dropout_ embedding embedding_bag feature_alpha_dropout feature_dropout grid_sampler
grid_sampler_2d grid_sampler_3d group_norm gru gru_cell im2col instance_norm layer_norm lstm lstm_cell max_pool1d
max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d
native_batch_norm _native_batch_norm_legit_no_training native_dropout native_group_norm native_layer_norm rms_norm
rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell scaled_dot_product_attention unfold_copy upsample_bicubic2d
upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_trilinear3d _weight_norm
_weight_norm_interface
"""

_INDEXING = """
gather index index_add index_add_ index_copy index_copy_ index_fill index_fill_ index_put index_put_ index_select
masked_scatter masked_scatter_ masked_select nonzero put scatter scatter_ scatter_add scatter_add_ scatter_reduce
scatter_reduce_ take take_along_dim _unsafe_index
"""

_LOSSES = """
binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy_loss hinge_embedding_loss
huber_loss kl_div l1_loss margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss nll_loss nll_loss2d
nll_loss_nd poisson_nll_loss smooth_l1_loss soft_margin_loss triplet_margin_loss
"""

_FOURIER = "fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn "
_FOURIER += "fft_irfftn fft_fftshift fft_ifftshift fft_hfft fft_ihfft"

_SIZES = "sym_size sym_numel sym_stride sym_storage_offset"

ATEN_OPERATORS = frozenset(
    f"aten.{name}"
    for names in (
        *(_POINTWISE, _SHAPES, _REDUCTIONS, _FACTORIES, _LINEAR_ALGEBRA),
        *(_LAYERS, _INDEXING, _LOSSES, _FOURIER, _SIZES),
    )
    for name in names.split()
)
"""Operators of PyTorch, without their overloads."""

_ARITHMETIC = "add sub mul floordiv mod pow neg truediv eq ne lt le gt ge and_ or_ abs"

ARITHMETIC = frozenset(f"operator.{name}" for name in _ARITHMETIC.split())
"""Operators of Python on lengths."""

SIZE_OPERATORS = ARITHMETIC | {
    "sym_max", "sym_min", "sym_float", "sym_int", "sym_not", "sym_ite", "ceil", "floor", "trunc",
}  # fmt: skip
"""Arithmetic on lengths."""

NO_GRAD = "no_grad"
"""The operator whose argument is a region without gradients: its results are constants."""

INLINE = "inline"
"""The operator whose argument is a region without rules of its own, such as one of automatic precision."""

OPERATORS = ATEN_OPERATORS | SIZE_OPERATORS | {NO_GRAD, INLINE}

_RANDOM_OPERATORS = """
rand rand_like randn randn_like randint randint_like randperm normal normal_ bernoulli bernoulli_ multinomial uniform_
exponential_ cauchy_ geometric_ log_normal_ random_ poisson binomial
"""

_RANDOM = (
    "it draws random numbers, which differ from product to product: call eval() on the module, and pass noise as an "
    "input"
)

_PRODUCT = "PyTorch's second derivative of it is wrong: use sums of logarithms, or multiply along an axis"

_PACKED = "packed sequences are not supported: pad the sequences and mask the padding"

REFUSED: Mapping[str, str] = {
    **{f"aten.{name}": _RANDOM for name in _RANDOM_OPERATORS.split()},
    "aten.embedding_renorm_": "it rewrites a parameter in place: remove max_norm from the embedding",
    "aten._embedding_bag": "export the module without decompositions, so that it calls embedding_bag",
    "aten._ctc_loss": "it has no second derivative",
    "aten.ctc_loss": "it has no second derivative",
    "aten.scatter.reduce": _PRODUCT,
    "aten.scatter.value_reduce": _PRODUCT,
    "aten.scatter_.reduce": _PRODUCT,
    "aten.scatter_.value_reduce": _PRODUCT,
    "aten.lstm.data": _PACKED,
    "aten.gru.data": _PACKED,
    "aten.rnn_tanh.data": _PACKED,
    "aten.rnn_relu.data": _PACKED,
    "aten.item": "it reads a number out of a tensor, as for control flow: write it with torch.where",
    "aten._local_scalar_dense": "it reads a number out of a tensor, as for control flow: write it with torch.where",
}
"""Reasons for refusing operators, or single overloads, that users might expect to be allowed."""

_TRAINING_ARGUMENTS = {
    "aten.dropout": "train",
    "aten.dropout_": "train",
    "aten.feature_dropout": "train",
    "aten.alpha_dropout": "train",
    "aten.feature_alpha_dropout": "train",
    "aten.native_dropout": "train",
    "aten.rrelu": "training",
    "aten.batch_norm": "training",
    "aten.native_batch_norm": "training",
    "aten.instance_norm": "use_input_stats",
    "aten.lstm": "train",
    "aten.gru": "train",
    "aten.rnn_tanh": "train",
    "aten.rnn_relu": "train",
}

_DROPOUT_INSIDE = ("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu", "aten.scaled_dot_product_attention")


_OTHER_OVERLOADS = frozenset(
    {"generator", "names", "dimname", "values", "values_stable", "dim_values", "dim_max", "dim_min", "eigvals"}
    | {"inverse", "output", "L", "U", "Q", "X"}
)
"""Overloads that write into arguments, draw numbers, or take names of axes."""


def base_name(op: str) -> str:
    """Return the name of an operator of PyTorch without its overload, and other names unchanged."""
    return ".".join(op.split(".")[:2]) if op.startswith("aten.") else op


def _has_allowed_overload(op: str) -> bool:
    """Return whether the overload neither writes its result into another argument nor takes lists or named axes."""
    overload = op.rpartition(".")[2]
    is_for_lists = op.startswith("aten.sort.") and overload not in ("default", "stable")
    return not (
        overload.startswith(("out", "Out")) or overload.endswith("_out") or overload in _OTHER_OVERLOADS or is_for_lists
    )


def refusal(op: str, arguments: Mapping[str, Any]) -> str | None:
    """Say why a call is refused.

    Args:
        op: Name of the operator with its overload.
        arguments: Arguments by name; tensors as anything that is not a number.

    Returns:
        The reason, and what to change; None if the call is allowed.
    """
    name = base_name(op)
    if name in REFUSED or op in REFUSED:
        return REFUSED.get(name) or REFUSED[op]
    if name in ("aten.scatter_reduce", "aten.scatter_reduce_") and arguments.get("reduce") == "prod":
        return _PRODUCT
    if name not in OPERATORS or not _has_allowed_overload(op):
        return "it is not supported"
    if name in _DROPOUT_INSIDE:
        probability = arguments.get("dropout", arguments.get("dropout_p", 0.0))
        is_training = arguments.get("train", True)
        return (
            "it has dropout: call eval() on the module before it is exported" if is_training and probability else None
        )
    argument = _TRAINING_ARGUMENTS.get(name)
    is_training = argument is not None and arguments.get(argument) is True and arguments.get("p", 1.0) != 0
    # without stored statistics, those of the sample are the layer's definition
    if is_training and (name != "aten.instance_norm" or arguments.get("running_mean") is not None):
        return "it is in training mode: call eval() on the module before it is exported"
    return None
